"""The comparison as one page: sortable tables, the figures, and what was left out."""

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from sae_nfm.compare.figures import Drawn
from sae_nfm.compare.measures import MEASURES, Measure
from sae_nfm.compare.objectives import Trained, by_objective
from sae_nfm.compare.steps import STEP_MEASURES, STEPS, StepMeasure
from sae_nfm.compare.studies import ComparedStudy, Problem
from sae_nfm.compare.tables import counted, shown_folder, warning_lines
from sae_nfm.compare.varied import numeric, text
from sae_nfm.report.estimates import Estimate
from sae_nfm.report.page import Html, figure, join, number_cell, page, table, tag
from sae_nfm.store.files import write_atomically

# Each heading holds a button; a click sorts the rows by the cells' data-sort, then the other way round.
_SORT = Html("""
document.querySelectorAll("th button").forEach(button => button.addEventListener("click", () => {
  const th = button.parentNode, body = th.closest("table").tBodies[0];
  const sign = th.ariaSort === "ascending" ? -1 : 1, key = row => row.cells[th.cellIndex].dataset.sort;
  th.parentNode.querySelectorAll("th").forEach(other => other.ariaSort = null);
  th.ariaSort = sign > 0 ? "ascending" : "descending";
  const order = (a, b) => a === "" || b === "" ? (a === "") - (b === "") :
    sign * (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
  [...body.rows].sort((a, b) => order(key(a), key(b))).forEach(row => body.append(row));
}));
""")


def write_page(
    studies: Sequence[ComparedStudy],
    varied: Sequence[str],
    problems: Sequence[Problem],
    found: Sequence[str],
    figures: Sequence[Drawn],
    path: Path,
    top: Path,
) -> Path:
    """Write the self-contained page, the findings first; studies are linked relative to it."""
    headings = [_heading(key) for key in varied]
    headings.append(_heading("SAE"))
    headings += [_heading(measure.heading, class_="number") for measure in MEASURES]
    headings.append(_heading("study"))
    rows = (_row(study, varied, path.parent, top) for study in studies)
    headline, *others = found
    body = page(
        f"Comparison of {counted(studies)}",
        tag("h1", top.name),
        tag("p", headline, class_="headline"),
        *(tag("p", sentence, class_="also") for sentence in others),
        tag("h2", "Studies"),
        table(headings, rows, class_="sortable"),
        tag("p", "95% intervals in brackets. A click on a heading sorts.", class_="note"),
        _objectives(by_objective(studies, varied)),
        _warnings(studies, top),
        _left_out(problems, top),
        *(
            join([tag("h2", drawn.title), figure(drawn.path, drawn.title, drawn.caption)])
            for drawn in figures
        ),
        tag("script", _SORT),
    )
    write_atomically(path, body)
    return path


def _heading(words: str, **attributes: str) -> Html:
    return tag("th", tag("button", words, type="button"), **attributes)


def _row(study: ComparedStudy, varied: Sequence[str], home: Path, top: Path) -> Html:
    cells = []
    for key in varied:
        value = study.setting(key)
        kind = {"class_": "number"} if numeric([value]) else {}
        cells.append(tag("td", text(value), data_sort="" if value is None else text(value), **kind))
    cells.append(tag("td", study.sae, data_sort=study.sae))
    cells += [_measure_cell(study.values[measure.name], measure) for measure in MEASURES]
    report = study.folder / "report.html"
    name = shown_folder(study.folder, top)
    link = tag("a", name, href=quote(os.path.relpath(report, home))) if report.is_file() else name
    return tag("tr", *cells, tag("td", link, data_sort=name, class_="name"))


def _objectives(groups: Sequence[Trained]) -> Html:
    """A row for each step of each objective, with the measures that any of them has."""
    if not groups:
        return Html()
    steps = [(trained, step) for trained in groups for step in STEPS if trained.has(step)]
    measures = [m for m in STEP_MEASURES if any(trained.read(step, m) for trained, step in steps)]
    headings = [_heading(key) for key in ("objective", *groups[0].others, "condition")]
    headings += [_heading(measure.heading, class_="number") for measure in measures]
    note = (
        "SAE and linear part are those trained alone for the objective, where a study measured them. "
        "95% intervals in brackets; of several seeds, mean and range."
    )
    return join(
        [
            tag("h2", "What each objective buys"),
            table(headings, (_step_row(*of, measures) for of in steps), class_="sortable"),
            tag("p", note, class_="note"),
        ]
    )


def _step_row(trained: Trained, step: str, measures: Sequence[StepMeasure]) -> Html:
    cells = [tag("td", words, data_sort=words) for words in (trained.objective, *trained.others.values())]
    cells.append(tag("td", step, data_sort=str(STEPS.index(step)), class_="name"))
    return tag("tr", *cells, *(_measure_cell(trained.read(step, measure), measure) for measure in measures))


def _measure_cell(read: Estimate | None, measure: Measure | StepMeasure) -> Html:
    sort = "" if read is None else repr(read.value)
    return number_cell(read, measure.decimals, measure.unit, data_sort=sort)


def _warnings(studies: Sequence[ComparedStudy], top: Path) -> Html:
    lines = warning_lines(studies, top)
    return join([tag("h2", "Warnings"), tag("ul", *(tag("li", line) for line in lines))]) if lines else Html()


def _left_out(problems: Sequence[Problem], top: Path) -> Html:
    if not problems:
        return Html()
    items = (tag("li", tag("code", shown_folder(p.folder, top)), f": {p.reason}") for p in problems)
    return join([tag("h2", f"Left out: {len(problems)}"), tag("ul", *items)])
