"""How the NFM is best trained: `sweep=nfm_training` and its like, each setting averaged over the seeds.

python benchmarks/nfm_training.py SWEEP_FOLDER…
"""

import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from timing import markdown

from sae_nfm.compare.measures import MARGINAL, RESIDUAL_EXPLAINED
from sae_nfm.compare.studies import ComparedStudy, read_studies
from sae_nfm.compare.varied import sort_key, text, varied_settings

RESULTS = Path(__file__).parent / "results" / "nfm_training.md"


def rows(studies: Sequence[ComparedStudy], keys: Sequence[str]) -> list[list[str]]:
    """One row a setting: mean ± standard deviation over seeds of what was measured, best first."""
    by_setting: dict[tuple[str, ...], list[ComparedStudy]] = defaultdict(list)
    for study in sorted(studies, key=lambda study: [sort_key(study.setting(key)) for key in keys]):
        by_setting[tuple(text(study.setting(key)) for key in keys)].append(study)
    measured = [
        (setting, [over_seeds(group, measure.name) for measure in (RESIDUAL_EXPLAINED, MARGINAL)], len(group))
        for setting, group in by_setting.items()
    ]
    measured.sort(key=lambda row: -row[1][0][0])
    return [[*setting, *(shown(*found) for found in values), str(n)] for setting, values, n in measured]


def over_seeds(studies: Sequence[ComparedStudy], measure: str) -> tuple[float, float]:
    """Mean and standard deviation."""
    values = [read.value for study in studies if (read := study.values[measure])]
    return mean(values), stdev(values) if len(values) > 1 else float("nan")


def shown(value: float, deviation: float) -> str:
    """In percent."""
    return f"{100 * value:.2f} ± {100 * deviation:.2f}"


def section(folder: Path) -> str:
    """The table of one sweep, below what its jobs have in common."""
    studies, problems = read_studies([folder])
    keys = [key for key in varied_settings(studies) if key != "seed"]
    first = studies[0].settings
    model = Path(str(first["lm.path"])).name
    same = {"lr": "nfm_optimizer.lr", "embed_std": "nfm.embed_std", "d_embed": "nfm.d_embed"}
    fixed = [f"{name} {first[key]}" for name, key in same.items() if key not in keys]
    title = (
        f"## {folder.name}: {model}, layer {first['layer']}, d_sae {first['sae.d_sae']}, "
        f"k {first['sae.k']}, {first['nfm_train_tokens']:,} tokens; {', '.join(fixed)}"
    )
    columns = [*keys, "residual explained, % (validation)", "marginal interaction, % of KL", "seeds"]
    left_out = [f"Left out: {problem.folder.name}: {problem.reason}" for problem in problems]
    return "\n\n".join([title, markdown(columns, rows(studies, keys)), *left_out])


def main() -> None:
    """Write the tables of all folders."""
    folders = [Path(argument) for argument in sys.argv[1:]]
    if not folders:
        sys.exit("give the folders of one or more sweeps")
    command = " ".join(["benchmarks/nfm_training.py", *(re.sub(r"^.*/", "", str(f)) for f in folders)])
    page = "\n\n".join(
        ["# NFM training: settings over seeds, best first", *map(section, folders), f"Made by `{command}`."]
    )
    RESULTS.write_text(page + "\n", encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
