"""The figures of one study, drawn from its `result.json` alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sae_nfm.report.conditions import (
    BASELINES,
    described,
    grouped_conditions,
    label,
    main_conditions,
    of_role,
)
from sae_nfm.report.estimates import (
    Estimate,
    condition_kl,
    format_value,
    kl_reduction,
    lookup,
    mse_reduction,
    number,
    pathology,
)
from sae_nfm.report.plotstyle import (
    DOTTED,
    condition_style,
    draw_cross,
    label_ends,
    mark_equal_reductions,
    new_figure,
    plain_log_ticks,
    save,
    styled,
)

_BASELINE_MARKERS = {
    "eps": "o",
    "cov": "s",
    "theta": "v",
    "real": "^",
    "permuted": "D",
    "norm_only": "X",
    "norm_corrected": "P",
}
_BASELINE_COLOUR = "#444444"


def draw_figures(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw every figure that the result has the data for.

    Args:
        result: the content of a study's `result.json`.
        folder: where the PNGs go; made if absent.

    Returns:
        The PNGs that were written, in the order in which a reader wants them.
    """
    figures = {
        "kl_by_condition": _draw_conditions,
        "kl_by_position": _draw_positions,
        "kl_distribution": _draw_distributions,
        "kl_vs_mse_reduction": _draw_reductions,
    }
    with styled():
        drawn = {name: draw(result) for name, draw in figures.items()}
        return [save(figure, Path(folder) / f"{name}.png") for name, figure in drawn.items() if figure]


def _draw_conditions(result: Mapping[str, Any]) -> Figure | None:
    """Mean KL with its interval: a row per reconstruction, its own baselines just below it."""
    groups = {
        reconstruction: found
        for reconstruction, names in grouped_conditions(result).items()
        if (found := [(name, kl) for name in names if (kl := condition_kl(result, name)) and kl.value > 0])
    }
    if not groups:
        return None
    dodge = 0.45 if max(len(found) for found in groups.values()) > 2 else 0.0
    tops = np.cumsum([0.0, *(1.1 + dodge * (len(found) - 1) for found in groups.values())])
    figure = new_figure(11, 1.8 + 0.38 * tops[-1])
    axes = figure.add_subplot()
    for i, found in enumerate(groups.values()):
        if i % 2 == 0:
            axes.axhspan(tops[i] - 0.6, tops[i + 1] - 0.6, color="#f4f4f4", lw=0, zorder=0)
        _draw_group(axes, result, tops[i], dodge, found)
        summary = _row_summary(result, found)
        axes.annotate(summary, (1.02, tops[i]), xycoords=("axes fraction", "data"), va="center")
    values = [kl.value for found in groups.values() for _, kl in found]
    if max(values) > 30 * min(values):
        axes.set_xscale("log")
        plain_log_ticks(axes.xaxis)
    else:
        axes.set_xlim(left=0)
    axes.set_ylim(tops[-1] - 0.6, -0.6)
    axes.set_yticks(tops[:-1], [label(result, name) for name in groups])
    drawn = [described(result, name).baseline for found in groups.values() for name, _ in found]
    _finish_condition_axes(axes, [baseline for baseline in dict.fromkeys(drawn) if baseline])
    return figure


def _row_summary(result: Mapping[str, Any], found: list[tuple[str, Estimate]]) -> str:
    """The mean KL of the first condition and, if an ε baseline is among the others, the ratio to it."""
    name, kl = found[0]
    ratio = pathology(result, name)
    return format_value(kl) + (f"   {format_value(ratio, 2, '×')} ε" if ratio else "")


def _draw_group(
    axes: Axes, result: Mapping[str, Any], top: float, dodge: float, found: list[tuple[str, Estimate]]
) -> None:
    if dodge == 0:
        axes.plot([kl.value for _, kl in found], [top] * len(found), color="#999999", lw=1.2, zorder=1)
    for j, (name, kl) in enumerate(found):
        y = top + dodge * j
        baseline = described(result, name).baseline
        colour, marker, _ = condition_style(result, name)
        if baseline:
            colour, marker = _BASELINE_COLOUR, _BASELINE_MARKERS.get(baseline, "d")
        if kl.low is not None and kl.high is not None:
            axes.plot([kl.low, kl.high], [y, y], color=colour, lw=2.4, solid_capstyle="butt")
        face, size = ("white", 8) if baseline else (colour, 11)
        axes.plot(kl.value, y, marker, color=colour, mfc=face, ms=size, mew=1.6)


def _finish_condition_axes(axes: Axes, baselines: list[str]) -> None:
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_xlabel("mean KL(clean ‖ spliced), nats/token, with 95% interval")
    style = {"color": _BASELINE_COLOUR, "mfc": "white", "ms": 8, "mew": 1.6}
    for name in baselines:
        axes.plot([], [], _BASELINE_MARKERS.get(name, "d"), label=BASELINES.get(name, name), **style)
    if baselines:
        axes.figure.legend(loc="outside upper center", ncols=4, handletextpad=0.2)


def _draw_positions(result: Mapping[str, Any]) -> Figure | None:
    """Mean KL at each position of the context, with its interval as a band."""
    curves = {}
    for name in main_conditions(result):
        kl = lookup(result, "conditions", name, "by_position", "kl") or []
        places = [i for i, value in enumerate(kl) if number(value) is not None]
        if places:
            curves[name] = (places, [kl[i] for i in places])
    if not curves:
        return None
    figure = new_figure(11, 5.6)
    axes = figure.add_subplot()
    ends = []
    for name, (places, values) in curves.items():
        colour, _, style = condition_style(result, name)
        line = {"color": colour, "lw": 2.2, "ls": DOTTED if described(result, name).baseline else style}
        axes.plot(places, values, **line)
        _shade_interval(axes, result, name, colour)
        ends.append((places[-1], values[-1], label(result, name), line))
    axes.set_xlim(min(p[0] for p, _ in curves.values()), max(p[-1] for p, _ in curves.values()))
    axes.set_ylim(bottom=0)
    axes.grid(axis="y")
    axes.set_xlabel("position in the context (0 is the first token)")
    axes.set_ylabel("mean KL, nats/token (band: 95% interval)")
    label_ends(axes, ends)
    return figure


def _shade_interval(axes: Axes, result: Mapping[str, Any], name: str, colour: str) -> None:
    bands = lookup(result, "conditions", name, "by_position", "ci95") or []
    ends = [(i, *band) for i, band in enumerate(bands) if band]
    if ends:
        places, low, high = zip(*ends, strict=True)
        axes.fill_between(places, low, high, color=colour, alpha=0.15, lw=0)


def _draw_distributions(result: Mapping[str, Any]) -> Figure | None:
    """The distribution of log10 KL, one strip per condition, with its mean and median."""
    strips = {}
    for name in main_conditions(result):
        histogram = lookup(result, "conditions", name, "kl", "histogram") or {}
        edges, counts = np.array(histogram.get("edges", [])), np.array(histogram.get("counts", []))
        if counts.sum() > 0:
            strips[name] = (edges, counts)
    if not strips:
        return None
    figure = new_figure(11, 1.3 + 0.95 * len(strips))
    panels = figure.subplots(len(strips), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, (edges, counts)) in zip(panels, strips.items(), strict=True):
        _draw_strip(axes, result, name, edges, counts)
    filled = [
        (edges[:-1][counts > 0].min(), edges[1:][counts > 0].max()) for edges, counts in strips.values()
    ]
    panels[-1].set_xscale("log")
    plain_log_ticks(panels[-1].xaxis)
    panels[-1].set_xlim(min(low for low, _ in filled), max(high for _, high in filled))
    panels[-1].tick_params(axis="x", which="major", length=5)
    panels[-1].set_xlabel("KL of one measurement, nats (logarithmic).  Line: median.  Marker: mean.")
    return figure


def _draw_strip(
    axes: Axes, result: Mapping[str, Any], name: str, edges: np.ndarray, counts: np.ndarray
) -> None:
    baseline = described(result, name).baseline
    colour, marker, _ = condition_style(result, name)
    density = counts / counts.sum() / np.diff(np.log10(edges))
    axes.stairs(density, edges, fill=True, color=colour, alpha=0.15 if baseline else 0.55)
    axes.stairs(density, edges, color=colour, lw=1.6, ls=DOTTED if baseline else "-")
    kl = lookup(result, "conditions", name, "kl")
    if number(kl.get("median")):
        axes.axvline(kl["median"], ymax=0.85, color="black", lw=1.8)
    if number(kl.get("mean")):
        axes.plot(kl["mean"], 0.12 * density.max(), marker, color="black", mfc="white", ms=9, mew=1.8)
    axes.set_ylim(0, density.max() * 1.1)
    axes.set_yticks([])
    axes.tick_params(axis="x", which="both", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylabel(label(result, name), rotation=0, ha="right", va="center", labelpad=10)


def _draw_reductions(result: Mapping[str, Any]) -> Figure | None:
    """How much KL each reconstruction takes off the SAE's, against how much squared error."""
    points, sae = {}, of_role(result, "sae")
    for name in grouped_conditions(result):
        kl, mse = kl_reduction(result, name), mse_reduction(result, name)
        if described(result, name).role not in ("clean", "zero", "mean") and name != sae and kl and mse:
            points[name] = (mse, kl)
    if not points:
        return None
    figure = new_figure(11, 5.6)
    axes = figure.add_subplot()
    ends = []
    for name, (mse, kl) in points.items():
        colour, marker, _ = condition_style(result, name)
        draw_cross(axes, mse, kl, colour, marker)
        ends.append((100 * mse.value, 100 * kl.value, label(result, name), {"color": "#888888", "lw": 0.8}))
    mark_equal_reductions(axes)
    axes.set_xlabel("reduction of squared error, %")
    axes.set_ylabel("reduction of KL, %")
    label_ends(axes, ends)
    return figure
