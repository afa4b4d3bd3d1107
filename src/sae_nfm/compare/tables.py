"""The comparison as a table on the terminal and as CSV."""

import csv
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sae_nfm.compare.measures import MEASURES
from sae_nfm.compare.objectives import Trained
from sae_nfm.compare.steps import STEP_MEASURES, STEPS
from sae_nfm.compare.studies import ComparedStudy, Problem
from sae_nfm.compare.varied import text
from sae_nfm.report.estimates import format_parts
from sae_nfm.store.files import replacing


def print_table(
    studies: Sequence[ComparedStudy],
    varied: Sequence[str],
    problems: Sequence[Problem],
    top: Path,
    console: Console,
) -> None:
    """Print a row per study, with intervals where they fit, and name what could not be read."""
    whole = _table(studies, varied, top, intervals=True)
    needed = console.measure(whole, options=console.options.update(width=10_000)).maximum
    if not console.is_terminal:
        console = Console(file=console.file, width=needed)  # a pipe has no width to fit
    fits = needed <= console.width
    console.print(whole if fits else _table(studies, varied, top, intervals=False))
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


def _table(studies: Sequence[ComparedStudy], varied: Sequence[str], top: Path, intervals: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=counted(studies), title_justify="left")
    for key in varied or ["study"]:
        table.add_column(Text(key), style="bold")
    table.add_column("SAE")
    for measure in MEASURES:
        table.add_column(measure.heading, justify="right", overflow="fold")
    for study in studies:
        cells = [Text(text(study.setting(key))) for key in varied]
        cells = [*(cells or [Text(shown_folder(study.folder, top))]), Text(study.sae)]
        for measure in MEASURES:
            value, interval = format_parts(study.values[measure.name], measure.decimals, measure.unit)
            cell = Text(value)
            if interval and intervals:
                cell.append(f"\n{interval}", style="dim")
            cells.append(cell)
        table.add_row(*cells)
    return table


def write_csv(studies: Sequence[ComparedStudy], varied: Sequence[str], path: Path, top: Path) -> Path:
    """Write a line per study: the varied settings, the SAE, then every measure with its interval's ends."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        measures = [name for m in MEASURES for name in (m.name, f"{m.name}_low", f"{m.name}_high")]
        writer.writerow(["study", *varied, "sae_family", "k", *measures, "warnings"])
        for study in studies:
            settings = ["" if (value := study.setting(key)) is None else text(value) for key in varied]
            values = [part for m in MEASURES for part in study.values[m.name] or (None, None, None)]
            k = None if study.k is None else f"{study.k:g}"
            folder, warnings = shown_folder(study.folder, top), " | ".join(study.warnings)
            writer.writerow([folder, *settings, study.family, k, *values, warnings])
    return path


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
