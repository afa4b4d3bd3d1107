"""Measures over one varied setting, as lines, and over two, as heatmaps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from sae_nfm.compare.measures import (
    KL_NFM,
    KL_SAE,
    MARGINAL,
    PATHOLOGY_NFM,
    PATHOLOGY_SAE,
    REDUCTION,
    Measure,
)
from sae_nfm.compare.studies import ComparedStudy
from sae_nfm.compare.varied import distinct, numeric, text
from sae_nfm.report.estimates import Estimate
from sae_nfm.report.plotstyle import DOTTED, SERIES, new_figure, role_style

_PANELS = (
    ("KL, nats/token", (KL_SAE, KL_NFM)),
    ("KL ÷ KL of ε-random", (PATHOLOGY_SAE, PATHOLOGY_NFM)),
    ("KL reduction by the NFM, %", (REDUCTION,)),
    ("marginal gain of interactions, % of KL", (MARGINAL,)),
)
_OF_SAE = (KL_SAE, PATHOLOGY_SAE)
_MOST_GROUPS = 5  # told apart by colour; more are drawn thin around their mean
_MOST_NUMBERS = 64  # written into the cells of a heatmap
_LOGARITHMIC = 8  # ratio of the largest to the smallest value from which an axis is logarithmic


def draw_over_setting(studies: Sequence[ComparedStudy], key: str, others: Sequence[str]) -> Figure | None:
    """Every headline measure over one setting, a line for each combination of the others.

    Seeds are replicates: they share a line, and its bars then span them instead of a study's own interval.
    """
    panels = [panel for panel in _PANELS if any(study.values[m.name] for m in panel[1] for study in studies)]
    if not panels:
        return None
    others = [other for other in others if other not in (key, "seed")]
    groups: dict[str, list[ComparedStudy]] = {}
    for study in studies:
        name = ", ".join(f"{other.rpartition('.')[2]}={text(study.setting(other))}" for other in others)
        groups.setdefault(name, []).append(study)
    figure = new_figure(12.5, 4.2 * ((len(panels) + 1) // 2) + 0.5)
    all_axes = figure.subplots((len(panels) + 1) // 2, 2, squeeze=False).flatten()
    for axes, (title, measures) in zip(all_axes, panels, strict=False):
        axes.set_title(title)
        for measure in measures:
            _draw_measure(axes, groups, key, measure)
        _finish_axis(axes, distinct(studies, key), key)
    for axes in all_axes[len(panels) :]:
        axes.set_axis_off()
    figure.legend(handles=_legend(list(groups)), loc="outside upper center", ncols=3)
    return figure


def _draw_measure(axes: Axes, groups: dict[str, list[ComparedStudy]], key: str, measure: Measure) -> None:
    everything = [study for group in groups.values() for study in group]
    places = _places(distinct(everything, key))
    line = "-" if numeric(distinct(everything, key)) else "none"
    if 1 < len(groups) <= _MOST_GROUPS:
        for group, (colour, marker, style) in zip(groups.values(), SERIES, strict=False):
            style = DOTTED if measure in _OF_SAE else style
            _draw_curve(axes, group, places, key, measure, colour, marker, style if line == "-" else line)
        return
    colour, marker, _ = role_style("sae" if measure in _OF_SAE else "nfm")
    if len(groups) > 1:
        for group in groups.values():
            curve = _curve(group, key, measure)
            x, y = [places[name] for name in curve], [point.value for point in curve.values()]
            axes.plot(x, y, color=colour, lw=0.7, alpha=0.35, ls=line, marker="" if line == "-" else ".")
    _draw_curve(axes, _comparable(groups, key, measure), places, key, measure, colour, marker, line)


def _comparable(groups: dict[str, list[ComparedStudy]], key: str, measure: Measure) -> list[ComparedStudy]:
    """The studies of the groups that were measured at every value: a mean of others would mix effects."""
    everything = [study for group in groups.values() for study in group]
    values = set(_curve(everything, key, measure))
    return [
        study for group in groups.values() if set(_curve(group, key, measure)) == values for study in group
    ]


def _draw_curve(
    axes: Axes,
    group: list[ComparedStudy],
    places: dict[str, float],
    key: str,
    measure: Measure,
    colour: str,
    marker: str,
    style: Any,
) -> None:
    for name, point in (curve := _curve(group, key, measure)).items():
        if point.low is not None and point.high is not None:
            # wide and pale for the SAE, so that two bars at one place are both seen
            width, alpha = (6, 0.35) if measure in _OF_SAE else (1.6, 1.0)
            ends = [point.low, point.high]
            axes.plot([places[name]] * 2, ends, color=colour, lw=width, alpha=alpha)
    x, y = [places[name] for name in curve], [point.value for point in curve.values()]
    face = "white" if measure in _OF_SAE else colour
    axes.plot(x, y, color=colour, marker=marker, mfc=face, ms=8, mew=1.6, lw=2, ls=style)


def _curve(group: Sequence[ComparedStudy], key: str, measure: Measure) -> dict[str, Estimate]:
    """The measure at each value of the setting: a study's own, or the mean and range of several."""
    found: dict[str, list[Estimate]] = {}
    for study in group:
        if (read := study.values[measure.name]) is not None:
            found.setdefault(text(study.setting(key)), []).append(measure.plotted(read))
    ordered = [text(value) for value in distinct(group, key) if text(value) in found]
    return {name: pooled(found[name]) for name in ordered}


def pooled(found: list[Estimate]) -> Estimate:
    """A study's own estimate, or the mean and range of several studies'."""
    values = [point.value for point in found]
    return found[0] if len(found) == 1 else Estimate(float(np.mean(values)), min(values), max(values))


def wide(values: Sequence[float]) -> bool:
    """Whether an axis for these values is to be logarithmic."""
    return min(values) > 0 and max(values) >= _LOGARITHMIC * min(values)


def _places(values: list[Any]) -> dict[str, float]:
    """Where each value is on the axis: at itself, or in its turn if the values are not numbers."""
    is_numeric = numeric(values)
    return {text(value): float(value) if is_numeric else float(i) for i, value in enumerate(values)}


def _finish_axis(axes: Axes, values: list[Any], key: str) -> None:
    axes.set_xlabel(key)
    axes.grid(axis="y")
    places = _places(values)
    if numeric(values) and wide(values):
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    if len(values) <= 10:
        turn = 0 if numeric(values) or max(map(len, places)) < 8 else 25
        ha = "right" if turn else "center"
        axes.set_xticks(list(places.values()), [_short(value) for value in values], rotation=turn, ha=ha)
    if not numeric(values):
        axes.set_xlim(-0.5, len(values) - 0.5)


def _short(value: Any) -> str:
    """A value as a tick label: 200000 → 200k."""
    if not numeric([value]):
        return text(value)
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):g}{unit}"
    return f"{value:g}"


def _legend(groups: list[str]) -> list[Line2D]:
    if 1 < len(groups) <= _MOST_GROUPS:
        handles = [
            Line2D([], [], color=colour, marker=marker, ls=style, lw=2, label=name)
            for name, (colour, marker, style) in zip(groups, SERIES, strict=False)
        ]
        return [
            *handles,
            Line2D([], [], color="#444444", ls=DOTTED, marker="o", mfc="white", label="SAE alone"),
        ]
    mean = " (thin: each combination; thick: mean of those at every value)" if len(groups) > 1 else ""
    styles = (
        ("SAE", role_style("sae"), "white"),
        (f"SAE + NFM{mean}", role_style("nfm"), None),
    )
    return [
        Line2D([], [], color=colour, marker=marker, mfc=face or colour, ms=8, lw=2, label=name)
        for name, (colour, marker, _), face in styles
    ]


def draw_over_two(studies: Sequence[ComparedStudy], across: str, up: str) -> Figure | None:
    """Headline measures over two settings; the mean where several studies share a cell."""
    measures = [
        measure
        for measure in (PATHOLOGY_SAE, REDUCTION, MARGINAL)
        if any(study.values[measure.name] for study in studies)
    ]
    if not measures:
        return None
    columns, rows = distinct(studies, across), distinct(studies, up)
    figure = new_figure(5 * len(measures) + 0.5, 4.8)
    for axes, measure in zip(figure.subplots(1, len(measures), squeeze=False)[0], measures, strict=True):
        cells = np.full((len(rows), len(columns)), np.nan)
        for i, row in enumerate(rows):
            for name, point in _curve([s for s in studies if s.setting(up) == row], across, measure).items():
                cells[i, [text(value) for value in columns].index(name)] = point.value
        _draw_cells(axes, cells, measure.decimals)
        axes.set_title(measure.axis_label)
        axes.set_xticks(range(len(columns)), [_short(value) for value in columns])
        axes.set_yticks(range(len(rows)), [_short(value) for value in rows])
        axes.set_xlabel(across)
        axes.set_ylabel(up)
    return figure


def _draw_cells(axes: Axes, cells: np.ndarray, decimals: int) -> None:
    low, high = float(np.nanmin(cells)), float(np.nanmax(cells))
    slack = max(0.0, 0.02 * abs(high) - (high - low)) / 2  # no strong colours for a difference of rounding
    image = axes.imshow(
        cells, origin="lower", aspect="auto", cmap="cividis", vmin=low - slack, vmax=high + slack
    )
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if cells.size > _MOST_NUMBERS:
        axes.figure.colorbar(image, ax=axes)
        return
    for (i, j), value in np.ndenumerate(cells):
        if np.isfinite(value):
            colour = "white" if value < (low + high) / 2 else "black"
            axes.text(j, i, f"{value:.{decimals}f}", ha="center", va="center", color=colour, fontsize=12)
