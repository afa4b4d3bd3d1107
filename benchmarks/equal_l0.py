"""The table of `explained_variance.py`: families and libraries side by side, at the L0 that ours has."""

import argparse
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from omegaconf import DictConfig
from quality import PREFIXES
from searching import Found, explained_variance_at, off, power_of
from timing import Bar, Report, markdown, number

NEAR = math.log(1.5)
"""In log L0: runs that say how what is explained depends on it."""


class Best(NamedTuple):
    """A peer's best setting."""

    setting: str
    runs: list[Found]
    """Of all seeds, at the sparsity closest to the L0 that was asked for."""
    at_l0: float
    """Mean explained variance, at our L0."""
    tried: int
    """Runs of the search, of all settings."""


def best_setting(runs: Sequence[Found], l0: float, seeds: Sequence[int]) -> Best:
    """The setting that explains most at an L0 among those that were run with all seeds."""
    groups: dict[tuple[str, float, float], list[Found]] = defaultdict(list)
    for run in runs:
        groups[run["variant"], run["lr"], run["sparsity"]].append(run)
    power = power_of([run for run in runs if off(run, l0) < NEAR])
    best = max(
        (group for group in groups.values() if {run["seed"] for run in group} >= set(seeds)),
        key=lambda group: explained_variance_at(l0, group, power),
    )
    one = best[0]
    setting = f"{one['variant']}, " * bool(one["variant"])
    setting += f"lr {one['lr']:g}, sparsity {one['sparsity']:g}"
    return Best(setting, best, explained_variance_at(l0, best, power), len(runs))


def report(
    cfg: DictConfig, args: argparse.Namespace, ours: dict[str, list[Found]], peers: Sequence[Found]
) -> None:
    """A table by family, the bars, what nested dictionaries explain, and every run."""
    rows, bars, nested = [], [], []
    for family, found in ours.items():
        l0, explained = mean(one["l0"] for one in found), mean(one["explained_variance"] for one in found)
        rows.append([family, "sae_nfm", "defaults", *summary(found), explained, len(found)])
        nested += [[family, "sae_nfm", *average(found, "prefixes")]] if family == "matryoshka" else []
        for library in args.libraries:
            runs = [run for run in peers if (run["library"], run["family"]) == (library, family)]
            best = best_setting(runs, l0, args.seeds)
            rows.append([family, library, best.setting, *summary(best.runs), best.at_l0, best.tried])
            bars.append(Bar(f"{family}: ahead of {library} by", explained - best.at_l0, 0.0))
            nested += [[family, library, *average(best.runs, "prefixes")]] if family == "matryoshka" else []
    columns = ("family", "library", "best setting", "L0", "explained variance", "dead fraction",
               "explained variance at our L0", "runs")  # fmt: skip
    sizes = [f"first {round(prefix * args.d_sae)}" for prefix in PREFIXES]
    keys = ("family", "library", "variant", "lr", "sparsity", "seed", "l0", "explained_variance",
            "dead_fraction", "seconds")  # fmt: skip
    Report(
        name="explained_variance_families",
        title=f"Held-out explained variance by family: {Path(cfg.lm.path).name}, layer {cfg.layer}, "
        f"d_sae {args.d_sae}, L0 {args.l0}, {cfg.train_tokens} tokens",
        columns=columns,
        rows=rows,
        bars=bars,
        notes=[
            f"Trained in batches of {cfg.batch_tokens}; 1 − Σ‖x − x̂‖² / Σ‖x − mean‖² of SAEs as they are at "
            f"inference, over {args.held_out} tokens of documents that none was trained on; dead are latents "
            "that fire on none of these. Mean ± standard deviation over seeds "
            f"{', '.join(map(str, args.seeds))}: ours with the defaults of its family, peers with the best "
            "setting of their search, which is by this same figure on these same tokens with seed 0. "
            "Sparsity is k, a target or a coefficient, whichever the library has. At our L0: by 1 − EV ~ "
            "L0^−p, p from the library's runs of the family near that L0 that differ in sparsity alone.",
        ],
        figures={"ours": ours, "peers": list(peers)},
        sections=[
            "## What nested dictionaries explain",
            markdown(("family", "library", *sizes), nested),
            "## Every run of the searches",
            markdown(keys, [[text(run[key]) for key in keys] for run in peers]),
        ],
    ).publish()


def summary(runs: Sequence[Found]) -> list[Any]:
    """L0, explained variance and dead fraction over seeds."""
    explained = [run["explained_variance"] for run in runs]
    deviation = stdev(explained) if len(runs) > 1 else math.nan
    l0, dead = (mean(run[key] for run in runs) for key in ("l0", "dead_fraction"))
    return [l0, f"{mean(explained):.4f} ± {deviation:.4f}", dead]


def average(runs: Sequence[Found], key: str) -> list[float]:
    """Of a list, entry by entry."""
    return [mean(values) for values in zip(*(run[key] for run in runs), strict=True)]


def text(value: str | float) -> str:
    """A cell; learning rates and seeds as they were given."""
    return value if isinstance(value, str) else number(value) if isinstance(value, float) else str(value)
