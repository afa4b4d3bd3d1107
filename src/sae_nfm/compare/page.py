"""The comparison as one page: findings, tables to sort and filter, the figures, and what was left out."""

import os
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from sae_nfm.compare.about import FEW_DOCUMENTS, facts, shared_command
from sae_nfm.compare.changes import Change, moved
from sae_nfm.compare.differences import Difference
from sae_nfm.compare.figures import Drawn
from sae_nfm.compare.measures import Measure
from sae_nfm.compare.objectives import Trained, by_objective
from sae_nfm.compare.ranking import Ranking
from sae_nfm.compare.steps import STEP_MEASURES, STEPS, StepMeasure
from sae_nfm.compare.studies import ComparedStudy, Problem
from sae_nfm.compare.tables import counted, measured, several_families, shown_folder, warning_lines
from sae_nfm.compare.varied import numeric, text
from sae_nfm.report.estimates import Estimate
from sae_nfm.report.page import Html, details, figure, join, number_cell, page, table, tag
from sae_nfm.store.files import write_atomically

_MANY = 30  # rows, from which a table scrolls in a box of its own
_INTERVALS = (
    "95% intervals over documents in brackets: what another seed of training would give is not in them."
)


class Comparison(NamedTuple):
    """What is known of the studies."""

    studies: list[ComparedStudy]
    varied: list[str]
    problems: list[Problem]
    ranked: Ranking | None
    changes: list[Change]
    sentences: list[str]
    top: Path
    """The first of the folders that were given."""


def write_page(found: Comparison, figures: Sequence[Drawn], path: Path) -> Path:
    """Write the self-contained page, the findings first; studies are linked relative to it."""
    headline, *others = found.sentences
    forest = [drawn for drawn in figures if drawn.path.stem == "compare_changes"]
    body = page(
        f"Comparison of {counted(found.studies)}",
        tag("style", _resource("compare.css")),
        tag("h1", found.top.name),
        tag("p", headline, class_="headline"),
        _small(found.studies),
        *(tag("p", sentence, class_="also") for sentence in others),
        tag("p", " · ".join(facts([study.about for study in found.studies])), class_="facts"),
        _commands(found),
        tag("h2", "Studies"),
        _filter(found.studies),
        _studies(found, path.parent),
        _changes(found.changes, forest),
        _objectives(by_objective(found.studies, found.varied)),
        *(_drawn(drawn) for drawn in figures if drawn not in forest),
        _warnings(found.studies, found.top),
        _left_out(found.problems, found.top),
        tag("script", _resource("compare.js")),
    )
    write_atomically(path, body)
    return path


def _resource(name: str) -> Html:
    return Html(resources.files("sae_nfm.compare").joinpath(name).read_text(encoding="utf-8"))


def _drawn(drawn: Drawn) -> Html:
    return join([tag("h2", drawn.title), figure(drawn.path, drawn.title, drawn.caption)])


def _small(studies: Sequence[ComparedStudy]) -> Html:
    small = sum(study.about.is_small for study in studies)
    if not small:
        return Html()
    which = "Every study is" if small == len(studies) else f"{small} of {len(studies)} studies, marked, are"
    said = f"{which} of fewer than {FEW_DOCUMENTS} documents: intervals may be too narrow."
    return tag("p", said, class_="warning")


def _commands(found: Comparison) -> Html:
    """The one command of all studies or, folded, that of each."""
    commands = [study.about.command for study in found.studies]
    if shared := shared_command(commands):
        return tag("pre", shared, class_="command")
    if not any(commands):
        return Html()
    names = (shown_folder(study.folder, found.top) for study in found.studies)
    lines = "\n".join(f"# {name}\n{command}" for name, command in zip(names, commands, strict=True))
    return details("Commands", tag("pre", lines, class_="command"))


def _filter(studies: Sequence[ComparedStudy]) -> Html:
    """A field whose words the rows have to contain."""
    if len(studies) < 3:
        return Html()
    placeholder = "filter: words, or layer=3 klreduction>10"
    field = tag("input", type="search", placeholder=placeholder, aria_label="filter", aria_controls="studies")
    return tag("p", field, tag("output", f"{len(studies)} of {len(studies)}"), class_="filter")


def _studies(found: Comparison, home: Path) -> Html:
    """A row per study."""
    measures, saes = measured(found.studies), several_families(found.studies)
    headings = [*found.varied, *(["SAE"] if saes else []), *(measure.heading for measure in measures)]
    headings += [f"{found.ranked.measure.heading} above least"] if found.ranked else []
    all_small, rows = all(study.about.is_small for study in found.studies), []
    for study in found.studies:
        cells = [_setting_cell(study.setting(key)) for key in found.varied]
        cells += [tag("td", study.sae, data_sort=study.sae)] if saes else []
        cells += [_measure_cell(study.values[measure.name], measure) for measure in measures]
        cells += [_above_cell(found.ranked, study)] if found.ranked else []
        rows.append(
            tag("tr", *cells, _name_cell(study, study.about.is_small and not all_small, home, found.top))
        )
    numbers = {measure.heading for measure in measures} | {headings[-1] if found.ranked else ""}
    how = " A click on a heading sorts."
    return join(
        [_sortable("studies", [*headings, "study"], numbers, rows), tag("p", _INTERVALS + how, class_="note")]
    )


def _sortable(name: str, headings: Sequence[str], numbers: Iterable[str], rows: Sequence[Html]) -> Html:
    """A table that can be sorted, whose rows are cards on a narrow screen."""
    cells = [
        tag("th", tag("button", words, type="button"), **({"class_": "number"} if words in numbers else {}))
        for words in headings
    ]
    labels = (
        f'#{name} td:nth-child({i}) {{ --is: "{_css(words)}" }}' for i, words in enumerate(headings, start=1)
    )
    style = tag("style", Html("\n".join(labels)))
    body = table(cells, rows, class_="sortable cards", id=name)
    return join([style, tag("div", body, class_="tall") if len(rows) > _MANY else body])


def _css(words: str) -> str:
    """Text between quotes of a style sheet that is part of a page."""
    return "".join(letter for letter in words if letter not in '"\\<>\n')


def _setting_cell(value: object) -> Html:
    kind = {"class_": "number"} if numeric([value]) else {}
    return tag("td", text(value), data_sort="" if value is None else text(value), **kind)


def _measure_cell(read: Estimate | None, measure: Measure | StepMeasure) -> Html:
    sort = "" if read is None else repr(100 * read.value if measure.unit == "%" else read.value)
    return number_cell(read, measure.decimals, measure.unit, data_sort=sort)


def _above_cell(ranked: Ranking, study: ComparedStudy) -> Html:
    """How much more KL than the least."""
    if study.folder == ranked.studies[0].folder:
        return tag("td", "least", class_="number", data_sort="0")
    return _difference_cell(ranked.above_best.get(study.folder), ranked.measure)


def _difference_cell(found: Difference | None, measure: Measure) -> Html:
    size = None if found is None else measure.plotted(found.shown)
    cell = number_cell(size, measure.decimals, data_sort="" if size is None else repr(size.value))
    if found is None or found.paired or found.size.low is None:
        return cell
    return Html(cell.removesuffix("</td>") + tag("span", "independent", class_="interval") + "</td>")


def _name_cell(study: ComparedStudy, marked: bool, home: Path, top: Path) -> Html:
    report = study.folder / "report.html"
    name = shown_folder(study.folder, top)
    link = tag("a", name, href=quote(os.path.relpath(report, home))) if report.is_file() else name
    few = [" ", tag("span", "few documents", class_="few")] if marked else []
    return tag("td", tag("span", link, *few), data_sort=name, class_="name")


def _changes(found: Sequence[Change], forest: Sequence[Drawn]) -> Html:
    """What single settings change, drawn and as a table."""
    measures = moved(found)
    if not measures:
        return Html()
    headings = ["step", "pairs", *(f"Δ {measure.difference_label}" for measure in measures)]
    rows = (
        tag(
            "tr",
            tag("td", change.name, data_sort=change.name),
            tag("td", str(len(change.pairs)), data_sort=str(len(change.pairs)), class_="number"),
            *(_difference_cell(change.of(measure), measure) for measure in measures),
        )
        for change in found
    )
    pictures = [figure(drawn.path, drawn.title, drawn.caption) for drawn in forest]
    note = "Means over the pairs, 95% intervals over documents. Every pair is in compare_differences.csv."
    shown = _sortable("changes", headings, headings[1:], list(rows))
    return join([tag("h2", "What one setting changes"), *pictures, shown, tag("p", note, class_="note")])


def _objectives(groups: Sequence[Trained]) -> Html:
    """A row for each step of each objective, with the measures that any of them has."""
    if not groups:
        return Html()
    steps = [(trained, step) for trained in groups for step in STEPS if trained.has(step)]
    measures = [m for m in STEP_MEASURES if any(trained.read(step, m) for trained, step in steps)]
    headings = ["objective", *groups[0].others, "condition", *(measure.heading for measure in measures)]
    note = (
        "SAE and linear part are those trained alone for the objective, where a study measured them. "
        "95% intervals in brackets; of several seeds, mean and range."
    )
    rows = [_step_row(*of, measures) for of in steps]
    return join(
        [
            tag("h2", "What each objective buys"),
            _sortable("objectives", headings, {measure.heading for measure in measures}, rows),
            tag("p", note, class_="note"),
        ]
    )


def _step_row(trained: Trained, step: str, measures: Sequence[StepMeasure]) -> Html:
    cells = [tag("td", words, data_sort=words) for words in (trained.objective, *trained.others.values())]
    cells.append(tag("td", step, data_sort=str(STEPS.index(step)), class_="name"))
    return tag("tr", *cells, *(_measure_cell(trained.read(step, measure), measure) for measure in measures))


def _warnings(studies: Sequence[ComparedStudy], top: Path) -> Html:
    lines = warning_lines(studies, top)
    return join([tag("h2", "Warnings"), tag("ul", *(tag("li", line) for line in lines))]) if lines else Html()


def _left_out(problems: Sequence[Problem], top: Path) -> Html:
    if not problems:
        return Html()
    items = (tag("li", tag("code", shown_folder(p.folder, top)), f": {p.reason}") for p in problems)
    return join([tag("h2", f"Left out: {len(problems)}"), tag("ul", *items)])
