"""How time and memory grow with everything that a user makes larger: slopes in log-log, and a figure.

    python benchmarks/scaling.py [--threads 1] [--axes NAME …]

Every point is measured in a process of its own, forked, so that it inherits no memory that an allocator kept.
Sums are synthetic: what is timed is what the evaluation does with the values of its tokens, and what the
findings make of the sums. Seconds are of the processor, so that what else the machine does counts little.
"""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from memory import peak_of
from timing import RESULTS, Bar, Report, arguments, parsed
from transformers.utils.logging import disable_progress_bar
from vocabulary import save_narrow_gpt2

from sae_nfm.evaluation.clean import clean_run
from sae_nfm.evaluation.condition import Condition
from sae_nfm.findings.result import findings
from sae_nfm.findings.summary import Summary
from sae_nfm.lm.model import LanguageModel
from sae_nfm.lm.site import Site
from sae_nfm.measures.sums import EvaluationSums, TokenValues, measures
from sae_nfm.models.saes.firing import Firing
from sae_nfm.models.saes.topk import TopKSAE
from sae_nfm.report import plotstyle
from sae_nfm.training.objectives.reconstruction import Reconstruction

D_IN, BATCH = 256, 2048
BLOCKS, CONTEXT = 8, 128
ENOUGH = 2.0  # seconds of calls, of which the fastest counts
LARGE = 10**6, 10**7  # documents and positions of the bar
LAST = 3  # sizes, of the largest, that a slope is fitted to

Call = Callable[[], Any]


class Point(NamedTuple):
    """What one size took."""

    size: int
    seconds: float
    """Of the processor."""
    peak: int
    """Bytes that resident memory rose by."""


@dataclass(frozen=True)
class Axis:
    """One thing that is made larger.

    Args:
        name: of what is made larger.
        does: what is timed, and what stays as it is.
        sizes: ascending.
        prepare: makes the call of a size.
        because: why its time grows as it does; said where that is steeper than linear.
    """

    name: str
    does: str
    sizes: Sequence[int]
    prepare: Callable[[int], Call]
    because: str = ""


def steps(d_sae: int = 2048, k: int = 32, tokens: int = BATCH) -> Call:
    """Training steps of a TopK SAE on so many tokens."""
    sae, firing, objective = TopKSAE(D_IN, d_sae, k), Firing(d_sae), Reconstruction()
    x = torch.randn(BATCH, D_IN)
    sae.initialize_(x)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-9, fused=True)

    def call() -> None:
        for _ in range(tokens // BATCH):
            attempt = sae.attempt(x, firing)
            loss = sum(attempt.terms.values(), start=objective.of_activation(x, attempt.reconstruction))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            sae.after_step_()

    return call


def evaluated(context: int = CONTEXT, vocabulary: int = 4096, width: int = 64) -> Call:
    """A batch of blocks through a narrow GPT-2, cut at a site, and measured."""
    with TemporaryDirectory() as folder:
        save_narrow_gpt2(Path(folder), width, layers=4, vocabulary=vocabulary, context=context)
        lm, site = LanguageModel(folder, "float32"), Site(1, "resid_post")
    tokens = torch.randint(4096, (BLOCKS, context))

    def call() -> None:
        prefix = lm.prefix(tokens, site)
        clean_run(lm, site, tokens, prefix, prefix.activation, 0, None)

    return call


def summed(documents: int = 10_000, positions: int = 1_000_000, conditions: int = 3) -> Call:
    """Sums over synthetic positions, and all findings of them; documents are as long as each other."""
    known = [Condition("clean", "clean", None, None, None, 1), Condition("sae", "sae", "sae", None, None, 1)]
    known += [Condition(f"nfm_{i}", "nfm", f"nfm_{i}", None, None, 1) for i in range(conditions - 2)]
    names, batch = measures(0), 32 * CONTEXT
    values = torch.rand(len(names), conditions, 32, CONTEXT)
    values[:, 0] = 0
    everywhere = torch.ones(32, CONTEXT, dtype=torch.bool)

    def call() -> None:
        sums = EvaluationSums(names, conditions, CONTEXT, documents)
        for first in range(0, positions, batch):
            document = torch.arange(first, first + batch).clamp_(max=positions - 1) * documents // positions
            values[:, 1:] = values[:, 1:].roll(1, dims=-1)
            by_document = TokenValues(
                values, list(values[0].unsqueeze(1)), everywhere, everywhere, document.view(32, CONTEXT)
            )
            sums.update(by_document)
        findings(Summary(known, sums.compute(), 0))

    return call


AXES = (
    Axis(
        "tokens",
        "training steps of a TopK SAE, d_sae 2,048",
        [2**i for i in range(13, 17)],
        lambda size: steps(tokens=size),
    ),
    Axis(
        "d_sae",
        "a training step, k 32, batch 2,048",
        [2**i for i in range(11, 15)],
        lambda size: steps(d_sae=size),
    ),
    Axis("k", "a training step, d_sae 8,192", [8, 32, 128, 512], lambda size: steps(8192, size)),
    Axis(
        "context",
        "8 blocks through a GPT-2 of width 64, and measured",
        [128, 256, 512, 1024, 2048],
        lambda size: evaluated(context=size),
        "attention of every position to all before it, 2·2·context·d_model operations a position, which in "
        "so narrow a model soon outweigh its weights",
    ),
    Axis(
        "vocabulary",
        "the same, 8 blocks of 128",
        [2**i for i in range(13, 17)],
        lambda size: evaluated(vocabulary=size),
    ),
    Axis(
        "conditions",
        "sums and findings of 200,000 positions",
        [4, 8, 16, 32],
        lambda size: summed(positions=200_000, conditions=size),
        "every pair of conditions is counted: Σ of products, and how often one is worse than the other",
    ),
    Axis(
        "positions",
        "sums and findings, 10,000 documents",
        [10**5, 10**6, LARGE[1]],
        lambda size: summed(positions=size),
    ),
    Axis(
        "documents",
        "sums and findings of 10⁷ positions",
        [10**4, 10**5, LARGE[0]],
        lambda size: summed(size, LARGE[1]),
    ),
)


def measured(axis: Axis, size: int) -> Point:
    """The first call's memory, and the time of the fastest in about a second."""
    call = axis.prepare(size)
    began = time.process_time()
    peak = peak_of(call)
    fastest = time.process_time() - began
    while time.process_time() - began < ENOUGH:
        started = time.process_time()
        call()
        fastest = min(fastest, time.process_time() - started)
    return Point(size, fastest, peak)


def _measured(number: int, size: int) -> Point:
    return measured(AXES[number], size)


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Of the largest sizes in log-log: 1 is linear, 0 is no growth at all."""
    x, y = (np.log(np.maximum(column, 1e-12))[-LAST:] for column in (sizes, values))
    return float(np.polyfit(x, y, 1)[0])


def draw(found: dict[str, list[Point]], path: Path) -> None:
    """Time and memory of every axis, over how many times larger than at its smallest it is."""
    with plotstyle.styled():
        figure = plotstyle.new_figure(12, 5.2)
        for axes, title, value in zip(
            figure.subplots(1, 2), ("time", "peak memory"), ("seconds", "peak"), strict=True
        ):
            axes.set_title(f"{title}, times that of the smallest")
            styles = (*plotstyle.SERIES, (plotstyle.GRAY, "*", plotstyle.DASHED))
            for (name, points), (colour, marker, line) in zip(found.items(), styles, strict=False):
                sizes = [point.size / points[0].size for point in points]
                values = [getattr(point, value) / getattr(points[0], value) for point in points]
                axes.loglog(sizes, values, color=colour, marker=marker, ls=line, label=name)
            widest = max(points[-1].size / points[0].size for points in found.values())
            axes.loglog([1, widest], [1, widest], color=plotstyle.GRAY, lw=1, zorder=0)
            axes.annotate("linear", (widest, widest), ha="right", va="bottom", color=plotstyle.GRAY)
            axes.set_xlabel("size, times the smallest")
            axes.grid(visible=True)
            for axis in (axes.xaxis, axes.yaxis):
                plotstyle.plain_log_ticks(axis)
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center")
        plotstyle.save(figure, path)


def explained(name: str, because: str, grows: float) -> str:
    """A sentence on what is steeper than linear; what nobody explained says so."""
    return f"{name} (slope {grows:.2f}): {because or 'UNEXPLAINED'}."


def publish(found: dict[str, list[Point]], name: str) -> None:
    """The table, the bars and the figure."""
    axes = {axis.name: axis for axis in AXES}
    grows = {
        each: [
            slope([p.size for p in points], [getattr(p, what) for p in points]) for what in Point._fields[1:]
        ]
        for each, points in found.items()
    }
    steep = [explained(each, axes[each].because, time) for each, (time, _) in grows.items() if time > 1.1]
    bars = []
    for point in found.get("documents", [])[-1:]:
        what = f"of {LARGE[0]:,} documents and {LARGE[1]:,} positions"
        bars = [
            Bar(f"seconds of sums and findings {what}", point.seconds, 60.0, at_least=False),
            Bar(f"GiB {what}", point.peak / 2**30, 2.0, at_least=False),
        ]
    draw(found, RESULTS / f"{name}.png")
    Report(
        name=name,
        title="How time and memory grow",
        columns=("", "what is timed", "from", "to", "seconds", "MB", "slope of time", "slope of memory"),
        rows=[
            [each, axes[each].does, points[0].size, points[-1].size, _ends(points, "seconds", 1),
             _ends(points, "peak", 1e6), *(round(value, 2) for value in grows[each])]
            for each, points in found.items()
        ],
        bars=bars,
        notes=[
            f"Slopes in log-log, by least squares through the {LAST} largest sizes: 1 is linear. Memory is "
            "what the first call adds to the process, state included where the call makes it.",
            *(["Steeper than linear:", *steep] if steep else ["Nothing is steeper than linear."]),
            f"![time and memory over size]({name}.png)",
        ],
        figures={each: [point._asdict() for point in points] for each, points in found.items()},
    ).publish()  # fmt: skip


def _ends(points: list[Point], what: str, unit: float) -> str:
    return " → ".join(f"{getattr(point, what) / unit:.3g}" for point in (points[0], points[-1]))


def main() -> None:
    """Measure axis by axis, and write the table and the figure."""
    parser = arguments(__doc__)
    names = [axis.name for axis in AXES]
    parser.add_argument("--axes", nargs="+", choices=names, default=names)
    args = parsed(parser)
    disable_progress_bar()
    found: dict[str, list[Point]] = {}
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        for number, axis in enumerate(AXES):
            if axis.name in args.axes:
                found[axis.name] = [pool.apply(_measured, (number, size)) for size in axis.sizes]
                print(axis.name, found[axis.name], flush=True)
    publish(found, args.name or "scaling")


if __name__ == "__main__":
    main()
