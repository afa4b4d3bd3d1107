"""Measures over one varied setting, as lines, and over two, as heatmaps."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator
from matplotlib.transforms import offset_copy

from sae_nfm.compare.measures import (
    KL_NFM,
    KL_SAE,
    MARGINAL,
    PATHOLOGY_NFM,
    PATHOLOGY_SAE,
    REDUCTION,
    Measure,
)
from sae_nfm.compare.studies import ComparedStudy, telling
from sae_nfm.compare.varied import distinct, named, numeric, text
from sae_nfm.report.estimates import Estimate
from sae_nfm.report.plotstyle import SERIES, in_legend, new_figure, series_styles

_MEASURES = (KL_SAE, KL_NFM, PATHOLOGY_SAE, PATHOLOGY_NFM, REDUCTION, MARGINAL)
_ALIKE = ([KL_SAE, KL_NFM], [PATHOLOGY_SAE, PATHOLOGY_NFM])
"""Panels that share their axis where they are beside each other."""
_MOST_NUMBERS = 64  # written into the cells of a heatmap
_MOST_LABELS = 10  # under an axis of numbers
_LOGARITHMIC = 8  # ratio of the largest to the smallest value from which an axis is logarithmic
_APART = 6.0  # typographic points between neighbouring series, so that none lies on another
_SLOT = 26.0  # that all series of a value take at most


class _Series(NamedTuple):
    """The studies that differ in the setting of the axis, and their seed, alone."""

    name: str
    studies: list[ComparedStudy]
    style: tuple  # of `SERIES`
    offset: float  # typographic points to the right of the value


def draw_over_setting(studies: Sequence[ComparedStudy], key: str, others: Sequence[str]) -> Figure | None:
    """Every headline measure over one setting, a line for each combination of the others.

    Lines stand beside each other at every value. Seeds are replicates: they share a line, and its bars then
    span them instead of a study's own interval.
    """
    measures = telling(studies, _MEASURES)
    if not measures:
        return None
    rows = [measures[i : i + 2] for i in range(0, len(measures), 2)]
    series, told_apart = _series(studies, [other for other in others if other not in (key, "seed")])
    figure = new_figure(12.5, 3.9 * len(rows) + 0.3 + 0.3 * (len(told_apart) // 2))
    for row, pair in zip(rows, figure.subplots(len(rows), 2, squeeze=False), strict=True):
        if row in _ALIKE:
            pair[1].sharey(pair[0])
        for axes in pair[len(row) :]:
            axes.set_axis_off()
        for axes, measure in zip(pair, row, strict=False):
            axes.set_title(measure.axis_label)
            for each in series:
                _draw_series(axes, each, key, measure, distinct(studies, key))
            _finish_axis(axes, distinct(studies, key), key)
    if told_apart:
        columns = max(1, min(6, 100 // (max(map(len, told_apart)) + 8)))
        figure.legend(handles=_legend(told_apart), loc="outside upper center", ncols=columns)
    return figure


def _series(
    studies: Sequence[ComparedStudy], others: Sequence[str]
) -> tuple[list[_Series], dict[str, tuple]]:
    """The lines, and the names and styles by which they are told apart.

    Where they are more than there are styles, by the first setting with few values or, without one, by
    shades of the first.
    """
    groups: dict[str, list[ComparedStudy]] = {}
    for study in studies:
        groups.setdefault(named(study, others), []).append(study)
    names = {name: name for name in groups}
    if len(groups) > len(SERIES):
        few = [other for other in others if len(distinct(studies, other)) <= len(SERIES)]
        names = {name: named(of[0], few[:1] or others[:1]) for name, of in groups.items()}
    styles = series_styles(list(dict.fromkeys(names.values())))
    apart = min(_APART, _SLOT / max(1, len(groups) - 1))
    series = [
        _Series(name, of, styles[names[name]], apart * (i - (len(groups) - 1) / 2))
        for i, (name, of) in enumerate(groups.items())
    ]
    return series, styles if len(styles) > 1 else {}


def _draw_series(axes: Axes, series: _Series, key: str, measure: Measure, values: Sequence[Any]) -> None:
    """A line with the interval of every point; hollow where a study is small."""
    colour, marker, style = series.style
    beside = offset_copy(axes.transData, axes.get_figure(root=True), series.offset, 0, units="points")
    places, curve = _places(values), _curve(series.studies, key, measure)
    small = {text(study.setting(key)) for study in series.studies if study.about.is_small}
    x, y = [places[name] for name in curve], [point.value for point in curve.values()]
    line = style if numeric(values) else "none"
    axes.plot(x, y, color=colour, lw=1.2, ls=line, alpha=0.6, transform=beside)
    bars = [(places[name], *point) for name, point in curve.items() if point.low is not None]
    at, _, low, high = zip(*bars, strict=True) if bars else ((), (), (), ())
    axes.vlines(at, low, high, colors=colour, lw=1.6, transform=beside)
    for face, hollow in ((colour, False), ("white", True)):
        there = [(places[name], point.value) for name, point in curve.items() if (name in small) == hollow]
        style = {"color": colour, "mfc": face, "ms": 6.5, "mew": 1.5, "transform": beside}
        if there:
            axes.plot([x for x, _ in there], [y for _, y in there], marker, **style)
    # What stands beside its value does not count by itself.
    axes.update_datalim([*zip(x, y, strict=True), *zip(at, low, strict=True), *zip(at, high, strict=True)])
    axes.autoscale_view()


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


def _places(values: Sequence[Any]) -> dict[str, float]:
    """Where each value is on the axis: at itself, or in its turn if the values are not numbers."""
    is_numeric = numeric(values)
    return {text(value): float(value) if is_numeric else float(i) for i, value in enumerate(values)}


def _finish_axis(axes: Axes, values: list[Any], key: str) -> None:
    axes.set_xlabel(key)
    axes.grid(axis="y")
    axes.margins(x=0.08)
    places = _places(values)
    if not numeric(values):
        crowded = len(values) > _MOST_LABELS or max(map(len, places)) >= 8
        turn, ha = (35, "right") if crowded else (0, "center")
        axes.set_xticks(list(places.values()), list(places), rotation=turn, ha=ha)
        axes.set_xlim(-0.5, len(values) - 0.5)
        return
    if wide(values):
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    if len(values) <= _MOST_LABELS:
        axes.set_xticks(list(places.values()), [_short(value) for value in values])


def _short(value: Any) -> str:
    """A value as a tick label: 200000 → 200k."""
    if not numeric([value]):
        return text(value)
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):g}{unit}"
    return f"{value:g}"


def _legend(styles: Mapping[str, tuple]) -> list[Line2D]:
    return [
        Line2D([], [], color=colour, marker=marker, ls=line, lw=1.6, ms=7, label=name)
        for name, (colour, marker, line) in in_legend(styles).items()
    ]


def draw_over_two(studies: Sequence[ComparedStudy], across: str, up: str) -> Figure | None:
    """Headline measures over two settings; the mean where several seeds share a cell."""
    measures = telling(studies, (PATHOLOGY_SAE, REDUCTION, MARGINAL))
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
