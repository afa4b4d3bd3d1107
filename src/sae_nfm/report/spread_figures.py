"""How evenly a difference is spread over the positions of a block and over the documents."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from sae_nfm.report.conditions import described, label, main_conditions, matched, of_role
from sae_nfm.report.estimates import lookup
from sae_nfm.report.plotstyle import BLUE, DOTTED, PURPLE, VERMILLION, condition_style, label_ends
from sae_nfm.report.themed import INK, QUIET, report_figure

_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.4, 1.7, 2, 3, 5, 10)
_APART = 0.14  # on the ticks


def paired(result: Mapping[str, Any], a: str | None, b: str | None) -> tuple[np.ndarray, np.ndarray] | None:
    """KL(a) − KL(b) by bins of positions, nats/token, and the ends of their intervals [bin, 2]."""
    for each in lookup(result, "along_context", "differences") or []:
        sign = {(a, b): 1, (b, a): -1}.get((each["a"], each["b"]))
        if sign:
            ends = np.array(each["ci95"], dtype=float)  # null is NaN
            return sign * np.array(each["value"], dtype=float), np.sort(sign * ends, axis=1)
    return None


def draw_positions(result: Mapping[str, Any]) -> Figure | None:
    """Levels along the context, and below them the paired differences that say what levels cannot."""
    found = result.get("along_context")
    if not found:
        return None
    sae, nfm, linear = (of_role(result, role) for role in ("sae", "nfm", "linear"))
    linear = lookup(result, "marginal_interaction", "against") or linear
    own = {name: matched(result, name, "eps") for name in (sae, nfm) if name}
    excess = [
        (paired(result, name, eps), label(result, name), condition_style(result, name)[0])
        for name, eps in own.items()
    ]
    gains = [
        (paired(result, sae, nfm), "by the NFM", BLUE),
        (paired(result, linear, nfm), "by its interactions", PURPLE),
    ]
    panels = [
        ("KL above that of the own ε-random", [each for each in excess if each[0] is not None]),
        ("KL taken off", [each for each in gains if each[0] is not None]),
    ]
    panels = [(title, series) for title, series in panels if series]
    figure = report_figure(2.5 + 1.9 * len(panels))
    axes = figure.subplots(1 + len(panels), sharex=True, squeeze=False)[:, 0]
    levels = [name for name in (sae, own.get(sae or ""), linear, nfm) if name]
    _draw_levels(axes[0], result, levels or main_conditions(result))
    for panel, (title, series) in zip(axes[1:], panels, strict=True):
        _draw_differences(panel, title, series)
    names = [f"{first}" if first == last else f"{first}+" for first, last in found["bins"]]
    axes[-1].set_xticks(range(len(names)), names)
    axes[-1].set_xlabel(f"position in the block; the last bin ends at {found['bins'][-1][1]}")
    figure.align_ylabels(axes)
    return figure


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title)
    axes.set_ylabel("nats/token")
    axes.grid(axis="y")


def _draw_levels(axes: Axes, result: Mapping[str, Any], names: list[str]) -> None:
    ends = []
    for name in names:
        levels = np.array(result["along_context"]["kl"][name], dtype=float)
        colour, marker, style = condition_style(result, name)
        is_baseline = described(result, name).baseline is not None
        line = {"color": colour, "lw": 1.8, "ls": DOTTED if is_baseline else style}
        axes.plot(levels, marker=None if is_baseline else marker, ms=5, **line)
        ends.append((len(levels) - 1, levels[-1], label(result, name), {**line, "lw": 1}))
    axes.set_ylim(bottom=0)
    axes.set_xlim(-0.4, len(result["along_context"]["bins"]) - 0.6)
    _finish(axes, "mean KL")
    label_ends(axes, ends)


def _draw_differences(
    axes: Axes, title: str, series: list[tuple[tuple[np.ndarray, np.ndarray], str, str]]
) -> None:
    axes.axhline(0, color=QUIET, lw=1)
    ends = []
    for i, ((values, interval), name, colour) in enumerate(series):
        x = np.arange(len(values)) + _APART * (i - (len(series) - 1) / 2)
        axes.vlines(x, *interval.T, color=colour, lw=2)
        axes.plot(x, values, "oD"[i % 2], color=colour, ms=5)
        ends.append((x[-1], values[-1], name, {"color": colour, "lw": 1}))
    _finish(axes, title)
    axes.autoscale_view()  # labels are placed where points are
    label_ends(axes, ends)


def draw_documents(result: Mapping[str, Any]) -> Figure | None:
    """The documents' ratios of KLs, the NFM's over that of the SAE and over that of the linear part."""
    found = [each for each in result.get("across_documents") or [] if each["log_ratio"]]
    if not found:
        return None
    figure = report_figure(0.6 + 2.0 * len(found))
    panels = figure.subplots(len(found), sharex=True, squeeze=False)[:, 0]
    low = math.exp(min(each["log_ratio"]["edges"][0] for each in found))
    high = math.exp(max(each["log_ratio"]["edges"][-1] for each in found))
    for axes, each in zip(panels, found, strict=True):
        _draw_ratios(axes, result, each)
        axes.set_xscale("log")
        axes.set_xlim(min(low, 0.95), max(high, 1.05))
    ticks = [ratio for ratio in _RATIOS if low <= ratio <= high]
    panels[-1].xaxis.set_major_locator(FixedLocator(ticks if len(ticks) > 1 else [low, 1, high]))
    panels[-1].xaxis.set_minor_locator(NullLocator())
    panels[-1].xaxis.set_major_formatter("{x:.2g}")
    panels[-1].set_xlabel("KL ratio of a document, logarithmic; line: the median")
    return figure


def _draw_ratios(axes: Axes, result: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    told = found["log_ratio"]
    edges, counts = np.exp(told["edges"]), np.array(told["counts"])
    middle = np.sqrt(edges[1:] * edges[:-1])
    for chosen, colour in ((middle < 1, BLUE), (middle >= 1, VERMILLION)):
        axes.bar(edges[:-1][chosen], counts[chosen], np.diff(edges)[chosen], align="edge", color=colour)
    axes.axvline(1, color=QUIET, lw=1)
    axes.axvline(math.exp(told["quartiles"][1]), color=INK, lw=1.8, ls=DOTTED)
    axes.set_ylim(0, 1.08 * counts.max())
    pair = f"{label(result, found['a'])} over {label(result, found['b'])}"
    axes.set_title(f"{pair}: lower in {found['lower']:.0%}")
    axes.set_ylabel("documents")
