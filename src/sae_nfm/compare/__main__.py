"""`python -m sae_nfm.compare DIR… [--out DIR]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sae_nfm.compare.changes import changes
from sae_nfm.compare.figures import draw_comparison
from sae_nfm.compare.objectives import by_objective
from sae_nfm.compare.page import Comparison, write_page
from sae_nfm.compare.ranking import ranking
from sae_nfm.compare.sentences import sentences
from sae_nfm.compare.studies import ComparedStudy, Problem, read_studies
from sae_nfm.compare.tables import print_table, write_csv, write_differences_csv, write_objectives_csv
from sae_nfm.compare.varied import sort_key, varied_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the studies below some folders: table on stdout, `compare.csv`, `compare.html`, figures.

    Studies that differ in one setting are compared in `compare_differences.csv` as well, and those that were
    trained for several objectives in `compare_objectives.csv`.

    Returns:
        The exit status: 0, 1 if there is nothing to compare, 2 if a folder does not exist.
    """
    parser = argparse.ArgumentParser(
        prog="python -m sae_nfm.compare", description="Compare finished studies."
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="DIR", help="folders with studies below them"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write; the first DIR by default")
    given = parser.parse_args(arguments)
    for folder in given.folders:
        if not folder.is_dir():
            print(f"{folder} is not a folder; allowed: folders with studies below them", file=sys.stderr)
            return 2
    studies, problems = read_studies(given.folders)
    top = given.folders[0].resolve()
    if not studies:
        print(f"nothing to compare: no result.json that can be read below {top}", file=sys.stderr)
        for problem in problems:
            print(f"  {problem.folder}: {problem.reason}", file=sys.stderr)
        return 1
    out = (given.out or top).resolve()
    out.mkdir(parents=True, exist_ok=True)
    found = _compared(studies, problems, top)
    write_csv(found.studies, found.varied, found.ranked, out / "compare.csv", top)
    write_differences_csv(found.changes, out / "compare_differences.csv", top)
    write_objectives_csv(by_objective(studies, found.varied), out / "compare_objectives.csv")
    figures = draw_comparison(found.studies, found.varied, found.changes, out / "figures")
    page = write_page(found, figures, out / "compare.html")
    console = Console()
    print_table(found.studies, found.varied, problems, top, console)
    for sentence in found.sentences:
        console.print(sentence, soft_wrap=True, highlight=False, markup=False)
    console.print(str(page), soft_wrap=True, highlight=False, markup=False)
    return 0


def _compared(studies: list[ComparedStudy], problems: list[Problem], top: Path) -> Comparison:
    """All that is found out, the studies in order of their settings."""
    varied = varied_settings(studies)
    studies.sort(key=lambda study: [sort_key(study.setting(key)) for key in varied])
    said = sentences(studies, varied)
    return Comparison(studies, varied, problems, ranking(studies), changes(studies, varied), said, top)


if __name__ == "__main__":
    sys.exit(main())
