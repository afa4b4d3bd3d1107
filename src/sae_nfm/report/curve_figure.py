"""How every stage of the training went."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from sae_nfm.report.estimates import number
from sae_nfm.report.plotstyle import BLUE
from sae_nfm.report.themed import BAND, PAPER, report_figure


def draw_curves(result: Mapping[str, Any]) -> Figure | None:
    """A row per stage: the loss on training tokens, and what validation documents said."""
    curves = {name: curve for name, curve in (result.get("curves") or {}).items() if curve["loss"]}
    if not curves:
        return None
    figure = report_figure(0.5 + 1.75 * len(curves))
    rows = figure.subplots(len(curves), 2, squeeze=False)
    for (left, right), (name, curve) in zip(rows, curves.items(), strict=True):
        _draw(left, curve, curve["loss"], "-")
        left.set_title(f"{name}: training loss")
        _draw(right, curve, curve["validation"], "o-")
        right.set_title(f"{name}: {curve['watched'].replace('_', ' ')}")
    for axes in rows[-1]:
        axes.set_xlabel("training tokens")
    return figure


def _draw(axes: Axes, curve: Mapping[str, Any], points: list[list[float]], line: str) -> None:
    told = [(step * curve["tokens_per_step"], value) for step, value in points if number(value) is not None]
    end = max(curve["loss"][-1][0], curve["validation"][-1][0]) * curve["tokens_per_step"]
    if (start := number(curve.get("late_from"))) is not None:
        axes.axvspan(start * curve["tokens_per_step"], end, color=BAND, lw=0, zorder=0)
    if told:
        axes.plot(*zip(*told, strict=True), line, color=BLUE, lw=1.8, ms=5, mfc=PAPER)
    axes.set_xlim(0, 1.02 * end)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="y")
