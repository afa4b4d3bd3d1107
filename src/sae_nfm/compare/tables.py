"""The comparison as a table on the terminal and as CSV."""

import csv
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sae_nfm.compare.changes import Change
from sae_nfm.compare.differences import Difference, difference
from sae_nfm.compare.measures import L0, MEASURES, Measure
from sae_nfm.compare.objectives import Trained
from sae_nfm.compare.ranking import Ranking
from sae_nfm.compare.steps import STEP_MEASURES, STEPS
from sae_nfm.compare.studies import ComparedStudy, Problem, telling
from sae_nfm.compare.varied import text
from sae_nfm.report.estimates import format_parts
from sae_nfm.store.files import replacing

MOST_ROWS = 100


def print_table(
    studies: Sequence[ComparedStudy],
    varied: Sequence[str],
    problems: Sequence[Problem],
    top: Path,
    console: Console,
) -> None:
    """Print a row per study, with intervals where they fit, and name what could not be read.

    Of more studies than anyone reads in a terminal the first `MOST_ROWS`.
    """
    shown = studies[:MOST_ROWS]
    whole = _table(shown, varied, top, intervals=True)
    needed = console.measure(whole, options=console.options.update(width=10_000)).maximum
    if not console.is_terminal:
        console = Console(file=console.file, width=needed)  # a pipe has no width to fit
    fits = needed <= console.width
    console.print(counted(studies), highlight=False)
    console.print(whole if fits else _table(shown, varied, top, intervals=False))
    if len(shown) < len(studies):
        left = len(studies) - len(shown)
        console.print(f"{left} more studies are in compare.csv and compare.html.", highlight=False)
    if not fits:
        console.print("95% intervals are in compare.csv and compare.html.", style="dim", highlight=False)
    for line in warning_lines(studies, top):
        console.print(Text(f"warning: {line}"), soft_wrap=True)
    for problem in problems:
        console.print(
            Text(f"left out: {shown_folder(problem.folder, top)}: {problem.reason}"), soft_wrap=True
        )


def shown_folder(folder: Path, top: Path) -> str:
    """The folder as seen from the first of the compared ones."""
    return str(folder.relative_to(top)) if folder.is_relative_to(top) and folder != top else str(folder)


def warning_lines(studies: Sequence[ComparedStudy], top: Path) -> list[str]:
    """Every warning once, after the studies that it is of."""
    of: dict[str, list[str]] = {}
    for study in studies:
        for warning in study.warnings:
            of.setdefault(warning, []).append(shown_folder(study.folder, top))
    return [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {warning}"
        for warning, names in of.items()
    ]


def counted(studies: Sequence[ComparedStudy]) -> str:
    """`1 study`, `2 studies`."""
    return f"{len(studies)} {'study' if len(studies) == 1 else 'studies'}"


def measured(studies: Sequence[ComparedStudy]) -> list[Measure]:
    """The measures that any of the studies has, and that tell them apart where there are several.

    Without L0 where that is every SAE's k.
    """
    values = list(MEASURES)
    if all((l0 := study.values[L0.name]) and l0.value == study.k for study in studies):
        values.remove(L0)
    return telling(studies, values)


def several_families(studies: Sequence[ComparedStudy]) -> bool:
    """Whether the SAEs have to be told apart beside the settings that vary."""
    return len({study.family for study in studies}) > 1


def _table(studies: Sequence[ComparedStudy], varied: Sequence[str], top: Path, intervals: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for key in varied or ["study"]:
        table.add_column(Text(key), style="bold")
    saes = several_families(studies)
    if saes:
        table.add_column("SAE")
    for measure in measured(studies):
        table.add_column(measure.heading, justify="right", overflow="fold")
    for study in studies:
        cells = [Text(text(study.setting(key))) for key in varied]
        cells = cells or [Text(shown_folder(study.folder, top))]
        cells += [Text(study.sae)] if saes else []
        for measure in measured(studies):
            value, interval = format_parts(study.values[measure.name], measure.decimals, measure.unit)
            cell = Text(value)
            if interval and intervals:
                cell.append(f"\n{interval}", style="dim")
            cells.append(cell)
        table.add_row(*cells)
    return table


def write_csv(
    studies: Sequence[ComparedStudy],
    varied: Sequence[str],
    ranked: Ranking | None,
    path: Path,
    top: Path,
) -> Path:
    """Write a line per study: settings, SAE, measures with their intervals' ends, KL above the least."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        measures = _with_ends(MEASURES)
        above = ["above_best", "above_best_low", "above_best_high", "above_best_paired"]
        about = ["model", "site", "corpus", "documents"]
        writer.writerow(["study", *varied, "sae_family", "k", *measures, *above, *about, "warnings"])
        for study in studies:
            settings = ["" if (value := study.setting(key)) is None else text(value) for key in varied]
            values = [part for m in MEASURES for part in study.values[m.name] or (None, None, None)]
            k = None if study.k is None else f"{study.k:g}"
            folder, warnings = shown_folder(study.folder, top), " | ".join(study.warnings)
            over = ranked.above_best.get(study.folder) if ranked else None
            on = (study.about.model, study.about.site, study.about.corpus, study.about.documents)
            writer.writerow([folder, *settings, study.family, k, *values, *_written(over), *on, warnings])
    return path


def write_differences_csv(found: Sequence[Change], path: Path, top: Path) -> None:
    """Write a line per step of a setting, and one for every pair of studies that it is the mean of.

    Without steps there is no file.
    """
    if not found:
        path.unlink(missing_ok=True)  # of an earlier comparison
        return
    compared = [measure for measure in MEASURES if measure.by_document]
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        heading = [name for m in compared for name in (*_with_ends([m]), f"{m.name}_paired")]
        writer.writerow(["setting", "before", "after", "pairs", "study_before", "study_after", *heading])
        for change in found:
            step = (change.setting, change.before, change.after)
            means = [part for measure in compared for part in _written(change.of(measure))]
            writer.writerow([*step, len(change.pairs), "", "", *means])
            for pair in change.pairs:
                names = (shown_folder(study.folder, top) for study in pair)
                own = [part for measure in compared for part in _written(difference(measure, pair))]
                writer.writerow([*step, 1, *names, *own])


def _with_ends(measures: Sequence[Measure]) -> list[str]:
    return [name for m in measures for name in (m.name, f"{m.name}_low", f"{m.name}_high")]


def _written(found: Difference | None) -> tuple:
    """Value, ends and whether it is paired."""
    return (None,) * 4 if found is None else (*found.size, found.paired)


def write_objectives_csv(groups: Sequence[Trained], path: Path) -> None:
    """Write a line per objective and step, every measure with its interval's ends; without groups no file."""
    if not groups:
        path.unlink(missing_ok=True)  # of an earlier comparison
        return
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        measures = [name for m in STEP_MEASURES for name in (m.name, f"{m.name}_low", f"{m.name}_high")]
        writer.writerow(["objective", *groups[0].others, "condition", "studies", *measures])
        for trained in groups:
            for step in filter(trained.has, STEPS):
                read = [trained.read(step, measure) for measure in STEP_MEASURES]
                values = [part for of in read for part in of or (None, None, None)]
                others = trained.others.values()
                writer.writerow([trained.objective, *others, step, len(trained.studies), *values])
