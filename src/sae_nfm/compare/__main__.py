"""`python -m sae_nfm.compare DIR… [--out DIR]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sae_nfm.compare.figures import draw_comparison
from sae_nfm.compare.objectives import by_objective
from sae_nfm.compare.page import write_page
from sae_nfm.compare.sentences import sentences
from sae_nfm.compare.studies import read_studies
from sae_nfm.compare.tables import print_table, write_csv, write_objectives_csv
from sae_nfm.compare.varied import sort_key, varied_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the studies below some folders: table on stdout, `compare.csv`, `compare.html`, figures.

    Studies that were trained for several objectives are compared in `compare_objectives.csv` as well.

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
    varied = varied_settings(studies)
    studies.sort(key=lambda study: [sort_key(study.setting(key)) for key in varied])
    write_csv(studies, varied, out / "compare.csv", top)
    write_objectives_csv(by_objective(studies, varied), out / "compare_objectives.csv")
    figures = draw_comparison(studies, varied, out / "figures")
    found = sentences(studies, varied)
    page = write_page(studies, varied, problems, found, figures, out / "compare.html", top)
    console = Console()
    print_table(studies, varied, problems, top, console)
    for sentence in found:
        console.print(sentence, soft_wrap=True, highlight=False, markup=False)
    console.print(str(page), soft_wrap=True, highlight=False, markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
