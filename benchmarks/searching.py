"""The search for a peer's best setting: its learning rate, and the sparsity setting that gives the asked L0.

Variants are tried at one learning rate, and the best of them at twice and half of it until the best learning
rate is none of the outermost. Where L0 follows from a coefficient, the coefficient is searched until L0 is
within a few percent, so that settings are compared at equal L0. Every run is kept in a file: a search that is
interrupted goes on where it was.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

CLOSE = 0.08
"""|log(L0 / asked)| at which a search for a coefficient ends."""
TRIES = 4
USUAL_POWER = 0.7
STEP = 0.12
"""Distance in log k of another run of the best setting, for how what it explains depends on L0."""


class Search(NamedTuple):
    """What of a family is tried."""

    variant: str
    lr: float
    """Where the search for the learning rate starts."""
    sparsity: float
    """k itself, or where the search for the coefficient starts."""
    exponent: float = 0.0
    """How L0 follows the coefficient, roughly: L0 ~ sparsity^exponent; 0 where it is k."""
    searched: bool = True
    """Whether other learning rates are tried: not where a library's defaults are looked at."""


@dataclass(frozen=True)
class Run:
    """One training run of a peer."""

    library: str
    family: str
    variant: str
    lr: float
    sparsity: float
    seed: int


Found = dict[str, Any]
"""A run's setting together with `explained_variance`, `l0`, `dead_fraction` and `seconds`."""


class Journal:
    """Runs that were made, by their setting, in a file of JSON lines.

    Args:
        path: of the file.
        make: trains under a setting and measures.
    """

    def __init__(self, path: Path, make: Callable[[Run], Found]) -> None:
        self.path, self.make = path, make
        lines = path.read_text().splitlines() if path.exists() else []
        self.made = {self._key(found): found for found in map(json.loads, lines)}

    def __call__(self, run: Run) -> Found:
        """Make a run, or look it up."""
        key = self._key(asdict(run))
        if key not in self.made:
            self.made[key] = asdict(run) | self.make(run)
            with self.path.open("a") as file:
                file.write(json.dumps(self.made[key]) + "\n")
            print(self.made[key], flush=True)
        return self.made[key]

    @staticmethod
    def _key(found: Found) -> tuple[Any, ...]:
        return tuple(found[name] for name in Run.__dataclass_fields__)


def search(
    run: Journal, library: str, family: str, searches: Sequence[Search], l0: float, seeds: Sequence[int]
) -> None:
    """Every variant at its learning rate, the best at others, and the best of all from other seeds."""
    tried = {one: _at(run, library, family, one, one.lr, one.sparsity, l0) for one in searches}
    one = max((one for one in tried if one.searched), key=lambda one: tried[one][0])
    found = {one.lr: tried[one]}
    while (best := max(found, key=lambda lr: found[lr][0])) in (min(found), max(found)):
        for lr in (best / 2, best * 2):
            if lr not in found:
                found[lr] = _at(run, library, family, one, lr, found[best][1].sparsity, l0)
    _, chosen = max([*tried.values(), *found.values()], key=lambda found: found[0])
    for seed in seeds:
        run(_changed(chosen, seed=seed))
    if one.exponent == 0 and family != "topk":  # L0 at inference is not exactly k
        run(_changed(chosen, sparsity=round(l0 * math.exp(STEP))))


def _at(
    run: Journal, library: str, family: str, one: Search, lr: float, sparsity: float, l0: float
) -> tuple[float, Run]:
    """Explained variance at an L0, and the setting that comes closest to it."""
    first = Run(library, family, one.variant, lr, sparsity, 0)
    tried = [run(first)]
    while one.exponent and off(tried[-1], l0) > CLOSE and len(tried) < TRIES:
        tried.append(run(_changed(first, sparsity=next_sparsity(tried, one.exponent, l0))))
    tried.sort(key=lambda found: off(found, l0))
    at_l0 = explained_variance_at(l0, tried[:1], power_of(tried[:2]))
    return at_l0, _changed(first, sparsity=tried[0]["sparsity"])


def next_sparsity(tried: Sequence[Found], exponent: float, l0: float) -> float:
    """By the line through the two runs closest to the asked L0, in logarithms; by the exponent at first."""
    known = sorted(tried, key=lambda found: off(found, l0))[:2]
    slope = exponent
    if len(known) == 2 and known[0]["sparsity"] != known[1]["sparsity"]:
        measured = (log_l0(known[0]) - log_l0(known[1])) / math.log(
            known[0]["sparsity"] / known[1]["sparsity"]
        )
        if measured * exponent > 0:
            slope = measured
    step = (math.log(l0) - log_l0(known[0])) / slope
    return rounded(known[0]["sparsity"] * math.exp(max(-2.0, min(2.0, step))))


def explained_variance_at(l0: float, runs: Sequence[Found], power: float) -> float:
    """What runs of one setting explain at another L0 than theirs, where 1 − EV ~ L0^−power."""
    logs = [math.log(1 - run["explained_variance"]) + power * (log_l0(run) - math.log(l0)) for run in runs]
    return 1 - math.exp(sum(logs) / len(logs))


def power_of(runs: Sequence[Found]) -> float:
    """How what is left unexplained falls with L0, by least squares over runs that differ in sparsity alone.

    Where runs of a learning rate and variant hardly differ in L0, noise would decide: a usual power is taken.
    """
    groups: dict[tuple[str, float], list[tuple[float, float]]] = defaultdict(list)
    for run in runs:
        point = (log_l0(run), math.log(1 - run["explained_variance"]))
        groups[run["variant"], run["lr"]].append(point)
    spread = product = 0.0
    for points in groups.values():
        mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
        spread += sum((x - mean_x) ** 2 for x, _ in points)
        product += sum((x - mean_x) * (y - mean_y) for x, y in points)
    return USUAL_POWER if spread < 0.005 else -product / spread


def log_l0(found: Found) -> float:
    """Finite where nothing is active."""
    return math.log(max(found["l0"], 1e-3))


def off(found: Found, l0: float) -> float:
    """Distance from an L0 in logarithms."""
    return abs(log_l0(found) - math.log(l0))


def rounded(value: float) -> float:
    """Four digits, so that a setting can be written down."""
    return float(f"{value:.4g}")


def _changed(run: Run, **changes: Any) -> Run:
    return Run(**(asdict(run) | changes))
