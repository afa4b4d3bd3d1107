"""The report of one study: a page that carries its figures and needs nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_nfm.report.attributed import read
from sae_nfm.report.attribution import attribution_part
from sae_nfm.report.attribution_figures import draw_attribution
from sae_nfm.report.estimates import number
from sae_nfm.report.features import write_features
from sae_nfm.report.figures import draw_figures
from sae_nfm.report.headline import facts, headline, marginal_gain
from sae_nfm.report.page import (
    Html,
    details,
    figure,
    flatten,
    join,
    key_values,
    number_cell,
    number_headings,
    page,
    table,
    tag,
)
from sae_nfm.report.tables import (
    ConditionRow,
    PairedTestRow,
    component_rows,
    condition_rows,
    paired_test_rows,
)
from sae_nfm.store.files import write_atomically

_FIGURES = {
    "kl_by_condition": (
        "Each reconstruction against its own matched baselines",
        "Filled: what replaces the activation. Open: its own matched baselines, drawn at each token at that "
        "reconstruction's error. To the right: mean KL, and how many times the KL of ε-random that is.",
    ),
    "kl_by_position": (
        "KL along the context",
        "Mean KL at each position of a block, 95% intervals over blocks.",
    ),
    "kl_distribution": (
        "How the measurements are distributed",
        "Density of log KL over all measurements of a condition.",
    ),
    "kl_vs_mse_reduction": (
        "Does the KL fall as much as the squared error?",
        "Reductions are against the SAE alone. Above the diagonal, the correction removes the part of the "
        "error that matters to the LM.",
    ),
}
_TERMS = {
    "KL": "KL(clean‖spliced) = Σ P (log P - log Q) over the vocabulary, in nats per token position: P from "
    "the clean run, Q from the run whose activation was replaced.",
    "95% interval": "Jackknife over documents: tokens of one document are not independent.",
    "ε-random": "The activation plus a random vector as long as the reconstruction's own error there.",
    "÷ baseline": "Mean KL of the reconstruction over that of its baseline: 1 means that the error does as "
    "much damage as the baseline of the same size.",
    "CE increase": "Cross-entropy of the next token minus that of the clean run, nats/token.",
    "top-1": "Share of positions at which the most likely token stays the same.",
}


def write_report(result: Mapping[str, Any], folder: Path) -> Path:
    """Write `report.html`, whole or not at all, after the figures it shows below `figures/`.

    Where the study's gain was attributed, the page says to what, and `features.html` shows it in text.

    Args:
        result: the content of a study's `result.json`.
        folder: the study's run folder.

    Returns:
        The path of the page.
    """
    folder = Path(folder)
    drawn = {path.stem: path for path in draw_figures(result, folder / "figures")}
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


def report_page(result: Mapping[str, Any], figures: Mapping[str, Path], attribution: Html) -> str:
    """The page as text.

    Args:
        result: the content of a study's `result.json`.
        figures: PNGs to inline, by name; any may be absent.
        attribution: the part that says what the gain is due to; may be empty.
    """
    name = _name(result)
    first, *others = headline(result)

    def shown(figure_name: str, *below: Html) -> Html:
        title, caption = _FIGURES[figure_name]
        if figure_name not in figures:
            return join(below)
        return join([tag("h2", title), figure(figures[figure_name], title, caption), *below])

    return page(
        f"{name}: SAE and NFM by next-token KL",
        tag("h1", name),
        *(tag("p", f"Warning: {warning}.", class_="warning") for warning in result.get("warnings") or []),
        tag("p", first, class_="headline"),
        *(tag("p", sentence, class_="also") for sentence in others),
        tag("p", " · ".join(facts(result)), class_="facts"),
        shown("kl_by_condition", _conditions(result)),
        _components(result),
        attribution,
        shown("kl_vs_mse_reduction"),
        shown("kl_by_position"),
        shown("kl_distribution"),
        _tests(result),
        _about(result),
    )


def _conditions(result: Mapping[str, Any]) -> Html:
    headings = ("mean KL", "÷ baseline", "median KL", "CE increase", "top-1", "L2 error", "cosine", "n")
    return table(["condition", *number_headings(*headings)], map(_condition_line, condition_rows(result)))


def _condition_line(row: ConditionRow) -> Html:
    return tag(
        "tr",
        tag(
            "td",
            row.words.rpartition(": ")[2],
            tag("code", row.name),
            class_="name",
        ),
        number_cell(row.kl),
        number_cell(row.times_baseline, 2, "×") if row.baseline else tag("td"),
        number_cell(row.median),
        number_cell(row.ce_increase),
        number_cell(row.top1_agreement, 1, "%"),
        number_cell(row.l2, 2),
        number_cell(row.cosine),
        tag("td", "–" if row.n is None else f"{row.n:,.0f}", class_="number"),
        class_="baseline" if row.baseline else "reconstruction",
    )


def _components(result: Mapping[str, Any]) -> Html:
    rows = component_rows(result)
    if not rows:
        return Html()
    lines = (
        tag(
            "tr",
            tag("td", row.words, tag("code", row.name), class_="name"),
            number_cell(row.kl),
            number_cell(row.kl_reduction, 1, "%"),
            number_cell(row.mse_reduction, 1, "%"),
        )
        for row in rows
    )
    headings = number_headings("mean KL", "KL reduction", "squared-error reduction")
    marginal = tag("p", marginal_gain(result) or "")
    title = tag("h2", "What each part of the NFM brings")
    return join([title, table(["what replaces the activation", *headings], lines), marginal])


def _tests(result: Mapping[str, Any]) -> Html:
    rows = paired_test_rows(result)
    if not rows:
        return Html()
    headings = (
        "difference of mean KL",
        "KL higher at",
        "Cohen's d",
        "paired t, clustered",
        "Wilcoxon p",
        "p after Holm",
    )
    published = tag("th", "unpaired t, as published", class_="number")
    note = (
        "Differences are paired by token, and errors clustered by document. “KL higher at”: the share of "
        "positions where the first of the pair has the higher KL. The unpaired t takes tokens as "
        "independent, as the published analysis did; it is here for comparison, not as evidence."
    )
    lines = table(["pair", *number_headings(*headings), published], map(_paired_test_line, rows))
    return join([tag("h2", "Tests"), lines, tag("p", note, class_="note")])


def _paired_test_line(row: PairedTestRow) -> Html:
    def cell(text: str, below: str = "") -> Html:
        return tag("td", text, tag("span", below, class_="interval") if below else Html(), class_="number")

    def t_and_p(test: Mapping[str, Any]) -> Html:
        t, freedom = number(test.get("t")), number(test.get("df"))
        degrees = f" (df {freedom:,.0f})" if freedom is not None else ""
        return cell("–" if t is None else f"t = {t:,.1f}{degrees}", f"p {format_p(test.get('p'))}")

    return tag(
        "tr",
        tag("td", row.pair, class_="name"),
        number_cell(row.difference),
        cell("–" if row.worse is None else f"{100 * row.worse:.1f}%"),
        cell("–" if row.cohens_d is None else f"{row.cohens_d:.2f}"),
        t_and_p(row.clustered),
        cell(format_p(row.wilcoxon.get("p"))),
        cell(format_p(row.p_holm)),
        t_and_p(row.as_published),
    )


def format_p(p: Any) -> str:
    """A p-value; one that underflowed is given as a bound."""
    value = number(p)
    if value is None:
        return "–"
    return "< 1e-300" if value < 1e-300 else f"{value:.2g}"


def _artifacts(result: Mapping[str, Any]) -> Html:
    """Where what the study made or reused lies, by the names that its settings give."""
    made = result.get("artifacts") or {}
    if not made:
        return Html()
    columns = ("kind", "fingerprint", "path")
    rows = (
        tag("tr", tag("td", name), *(tag("td", tag("code", str(one.get(key) or "–"))) for key in columns))
        for name, one in made.items()
    )
    return join([tag("h3", "Artifacts by name"), table(("name", *columns), rows, class_="settings")])


def _about(result: Mapping[str, Any]) -> Html:
    terms = [part for term, meaning in _TERMS.items() for part in (tag("dt", term), tag("dd", meaning))]
    parts = ("lm", "site", "corpus", "sae", "nfm", "evaluation", "timing")
    measured = flatten({part: result[part] for part in parts if isinstance(result.get(part), Mapping)})
    settings = (result.get("choices") or {}) | flatten(result.get("settings") or {})
    command = str(result.get("command") or "python -m sae_nfm")
    fingerprint = f"Fingerprint of the study: {result.get('fingerprint') or 'not recorded'}."
    return join(
        [
            tag("h2", "Reproduce"),
            tag("pre", tag("code", command)),
            tag("p", fingerprint, class_="note"),
            _artifacts(result),
            details("How to read this", tag("dl", *terms)),
            details("What was studied", key_values(measured)),
            details("Settings", key_values(settings)),
            details("Environment", key_values(flatten(result.get("environment") or {}))),
        ]
    )
