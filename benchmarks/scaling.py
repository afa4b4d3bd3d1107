"""How an evaluation's sums and findings grow over documents, positions, conditions and context.

Values are synthetic; sums, intervals and tests are the project's own. Seconds are of the processor, so that
other processes on the machine do not count.
"""

import time
from dataclasses import asdict, dataclass, replace
from functools import partial

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from memory import peak_of
from timing import RESULTS, Bar, Report, arguments, parsed

from sae_nfm.evaluation.condition import Condition
from sae_nfm.findings.result import findings
from sae_nfm.findings.summary import Summary
from sae_nfm.measures.sums import EvaluationSums, TokenValues, measures

BATCH = 16_384
"""Positions that are added at once."""


@dataclass(frozen=True)
class Setting:
    """The size of an evaluation."""

    documents: int = 10_000
    positions: int = 262_144
    conditions: int = 4
    context: int = 128


AXES = {
    "documents": (10_000, 100_000, 1_000_000),
    "positions": (262_144, 1_048_576, 4_194_304),
    "conditions": (4, 8, 16),
    "context": (32, 128, 512),
}
BASES = {"documents": Setting(positions=1_048_576)}
"""What else is held where a document would otherwise have no position."""
LARGEST = Setting(documents=1_000_000, positions=10_000_000)
GIB = 2**30


@dataclass(frozen=True)
class Cost:
    """Processor seconds of the sums and of the findings, and bytes by which memory rose."""

    sums: float
    findings: float
    memory: int


def cost(setting: Setting, repeats: int = 3) -> Cost:
    """What an evaluation of a size takes, apart from running the model: the least time, the most memory."""
    found = [_cost(setting) for _ in range(repeats)]
    return Cost(min(c.sums for c in found), min(c.findings for c in found), max(c.memory for c in found))


def _cost(setting: Setting) -> Cost:
    seconds: list[float] = []
    memory = peak_of(partial(_evaluate, setting, seconds))
    return Cost(seconds[1] - seconds[0], seconds[2] - seconds[1], memory)


def _evaluate(setting: Setting, seconds: list[float]) -> None:
    shape = (BATCH // setting.context, setting.context)
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(len(measures(0)), setting.conditions, *shape, generator=generator)
    values[:, 0] = 0
    every = torch.ones(shape, dtype=torch.bool)
    sums = EvaluationSums(measures(0), setting.conditions, setting.context, setting.documents)
    seconds.append(time.process_time())
    for start in range(0, setting.positions, BATCH):
        at = torch.arange(start, start + BATCH).view(shape)
        scored = every & (at < setting.positions)
        documents = at.clamp_max(setting.positions - 1) * setting.documents // setting.positions
        draws = [kl[None] for kl in values[0]]
        sums.update(TokenValues(values, draws, scored, scored, documents))
    seconds.append(time.process_time())
    findings(Summary(_conditions(setting.conditions), sums.compute(), 0))
    seconds.append(time.process_time())


def _conditions(num: int) -> list[Condition]:
    roles = ["clean", "sae", "nfm", *("control" for _ in range(num - 3))]
    return [Condition(f"{role}_{i}", role, f"{role}_{i}", None, None, 1) for i, role in enumerate(roles)]


def slope(sizes: tuple[int, ...], costs: list[float]) -> float:
    """Least-squares exponent of cost over size."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def draw(measured: dict[str, list[Cost]]) -> None:
    """`results/scaling.png`: a panel an axis."""
    figure, panels = plt.subplots(1, len(measured), figsize=(12, 3), sharey=True, layout="constrained")
    for panel, (axis, costs) in zip(panels, measured.items(), strict=True):
        panel.loglog(AXES[axis], [c.sums for c in costs], "o-", label="sums")
        panel.loglog(AXES[axis], [c.findings for c in costs], "s-", label="findings")
        panel.set_xticks(AXES[axis], [f"{size:,}" for size in AXES[axis]])
        panel.minorticks_off()
        panel.set_xlabel(axis)
    panels[0].set_ylabel("processor seconds")
    panels[0].legend(frameon=False)
    figure.savefig(RESULTS / "scaling.png", dpi=150)


def main() -> None:
    """Measure every axis and the largest evaluation."""
    parsed(arguments(__doc__))
    cost(Setting(), repeats=1)  # what only a first call does
    measured = {
        axis: [cost(replace(BASES.get(axis, Setting()), **{axis: size})) for size in sizes]
        for axis, sizes in AXES.items()
    }
    largest = cost(LARGEST, repeats=1)
    rows = [
        [axis, " ".join(f"{size:,}" for size in AXES[axis]), costs[-1].sums, costs[-1].findings,
         costs[-1].memory / 2**20, slope(AXES[axis], [c.sums for c in costs]),
         slope(AXES[axis], [c.findings for c in costs])]
        for axis, costs in measured.items()
    ]  # fmt: skip
    size = f"{LARGEST.documents:,} documents, {LARGEST.positions:,} positions"
    draw(measured)
    Report(
        name="scaling",
        title="How an evaluation's sums and findings grow",
        columns=("axis", "sizes", "sums s", "findings s", "MiB", "slope of sums", "slope of findings"),
        rows=rows,
        bars=[
            Bar(f"seconds of {size}", largest.sums + largest.findings, 60, at_least=False),
            Bar(f"GiB of {size}", largest.memory / GIB, 2, at_least=False),
        ],
        notes=[
            "Seconds are the processor's, and with MiB those of the largest size; slopes are log-log. Of"
            " three calls it is the least time and the most memory; of the largest evaluation there is one.",
            "MiB is what memory rose by: near 0 where the call found what earlier ones had left free.",
            "Over conditions the findings are steeper than linear at small numbers because C conditions"
            " without baselines make 2C − 5 paired tests, 3 of 4 but 27 of 16.",
        ],
        figures={
            "largest": asdict(largest),
            **{axis: [asdict(c) for c in costs] for axis, costs in measured.items()},
        },
    ).publish()


if __name__ == "__main__":
    main()
