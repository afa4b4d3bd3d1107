"""The report of one study: a page that carries its figures and needs nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_nfm.report.about import about_part
from sae_nfm.report.attributed import read
from sae_nfm.report.attribution import attribution_part
from sae_nfm.report.attribution_figures import draw_attribution
from sae_nfm.report.features import write_features
from sae_nfm.report.figures import draw_figures
from sae_nfm.report.headline import facts, headline
from sae_nfm.report.page import Html, page, tag
from sae_nfm.report.parts import (
    Drawings,
    components_part,
    conditions_part,
    spread_parts,
    tests_part,
    training_part,
)
from sae_nfm.store.files import write_atomically


def write_report(result: Mapping[str, Any], folder: Path) -> Path:
    """Write `report.html`, whole or not at all, after the figures it shows below `figures/`.

    Where the study's gain was attributed, the page says to what, and `features.html` shows it in text.

    Args:
        result: the content of a study's `result.json`; parts that it lacks are left out.
        folder: the study's run folder.

    Returns:
        The path of the page.
    """
    folder = Path(folder)
    drawn = {path.stem: path.with_suffix(".svg") for path in draw_figures(result, folder / "figures")}
    path = folder / "report.html"
    write_atomically(path, report_page(result, drawn, _attribution(_name(result), folder)))
    return path


def _name(result: Mapping[str, Any]) -> str:
    return str(result.get("name") or "study")


def _attribution(name: str, folder: Path) -> Html:
    """The part that says what the gain is due to, its figures and page written; empty if that is unknown."""
    attributed = read(folder)
    if attributed is None:
        return Html()
    write_features(name, attributed, folder)
    return attribution_part(attributed, draw_attribution(attributed, folder / "figures"))


def report_page(result: Mapping[str, Any], drawn: Drawings, attribution: Html) -> str:
    """The page as text: the answer first, then what to beware of, then everything that supports it.

    Args:
        result: the content of a study's `result.json`.
        drawn: figures to inline.
        attribution: the part that says what the gain is due to; may be empty.
    """
    name = _name(result)
    return page(
        f"{name}: SAE and NFM by next-token KL",
        tag("h1", name),
        tag("p", headline(result)[0], class_="headline"),
        _warnings(result),
        tag("p", " · ".join(facts(result)), class_="facts"),
        conditions_part(result, drawn),
        components_part(result, drawn),
        attribution,
        spread_parts(result, drawn),
        training_part(result, drawn),
        tests_part(result),
        about_part(result),
    )


def _warnings(result: Mapping[str, Any]) -> Html:
    found = result.get("warnings") or []
    if not found:
        return Html()
    lines = (tag("li", f"{warning}.") for warning in found)
    return tag("div", tag("strong", "Read with care"), tag("ul", *lines), class_="warning", role="note")
