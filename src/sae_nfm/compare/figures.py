"""The figures of a comparison: what settings change, over each and over two, and measure against measure."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sae_nfm.compare.about import FEW_DOCUMENTS
from sae_nfm.compare.changes import Change, settings_apart
from sae_nfm.compare.forest import MOST_ROWS, draw_changes
from sae_nfm.compare.measures import EXPLAINED_VARIANCE, MARGINAL, MSE_REDUCTION, REDUCTION, Measure
from sae_nfm.compare.objectives import draw_objectives
from sae_nfm.compare.over_settings import draw_over_setting, draw_over_two
from sae_nfm.compare.quality import draw_quality
from sae_nfm.compare.studies import ComparedStudy
from sae_nfm.compare.varied import distinct, numeric, text
from sae_nfm.report.plotstyle import GRAY, SERIES, draw_cross, mark_equal_reductions, new_figure, save, styled

_MOST_LINES = 6
_CROWD = 60  # points from which they are drawn small and without intervals
_MOST_VALUES = 20  # of a setting that is not a number, on one axis


class Drawn(NamedTuple):
    """A figure with what the page says about it."""

    path: Path
    title: str
    caption: str


class _Figure(NamedTuple):
    name: str
    title: str
    caption: str
    drawn: Figure | None  # None where there is nothing to draw


def draw_comparison(
    studies: Sequence[ComparedStudy], varied: Sequence[str], found: Sequence[Change], folder: Path
) -> list[Drawn]:
    """Draw every figure that the studies have the data for, and remove those of an earlier comparison.

    Args:
        studies: at least one.
        varied: the settings that differ between them.
        found: what single settings change.
        folder: where `compare_*.png` and `.pdf` go; made if absent.
    """
    for old in [*folder.glob("compare_*.png"), *folder.glob("compare_*.pdf")]:
        old.unlink()
    if len(studies) < 2:
        return []
    with styled():
        figures = [
            _changes(found),
            *_over_settings(studies, varied),
            _objectives(studies, varied),
            _reductions(studies, varied),
            _gain_against_quality(studies, varied),
        ]
        return [_saved(figure, each, folder) for each in figures if (figure := each.drawn)]


def _saved(figure: Figure, of: _Figure, folder: Path) -> Drawn:
    """As PDF for a paper, and as PNG for the page."""
    save(figure, folder / f"compare_{of.name}.pdf")
    figure.set_layout_engine("none")  # laid out once is enough
    return Drawn(save(figure, folder / f"compare_{of.name}.png"), of.title, of.caption)


def _changes(found: Sequence[Change]) -> _Figure:
    caption = (
        "The mean over pairs of studies that differ in nothing else, with its 95% interval over documents; "
        "below it a tick for each pair. Filled: paired by document. Hollow: as if independent."
    )
    if len(found) > MOST_ROWS:
        caption += f" The first {MOST_ROWS} of {len(found)} steps; all are in compare_differences.csv."
    return _Figure("changes", "What one setting changes", caption, draw_changes(found))


def _over_settings(studies: Sequence[ComparedStudy], varied: Sequence[str]) -> list[_Figure]:
    apart = [key for key, *_ in settings_apart(studies, varied)]
    numbers = [key for key in apart if numeric(distinct(studies, key))]
    words = [key for key in apart if key not in numbers and len(distinct(studies, key)) <= _MOST_VALUES]
    bars = "Bars: 95% interval of a study; where several seeds share a point, their range."
    if any(study.about.is_small for study in studies):
        bars += f" Hollow: fewer than {FEW_DOCUMENTS} documents."
    lines = [
        _Figure(f"over_{_slug(key)}", f"Over {key}", bars, draw_over_setting(studies, key, apart))
        for key in [*numbers, *words][:_MOST_LINES]
    ]
    if len(apart) != len(numbers) or len(numbers) != 2:
        return lines  # a cell would be a mean over studies that are not alike
    a, b = numbers
    cells = "Where several seeds share a cell, their mean."
    both = draw_over_two(studies, a, b)
    return [*lines, _Figure(f"{_slug(a)}_by_{_slug(b)}", f"Over {a} and {b}", cells, both)]


def _slug(key: str) -> str:
    return re.sub(r"\W+", "_", key)


def _objectives(studies: Sequence[ComparedStudy], varied: Sequence[str]) -> _Figure:
    caption = (
        "KL against squared error: lower left is better. Further left is closer to the activation, further "
        "down to what the LM makes of it. Bars: 95% interval of a study; where several seeds share a point, "
        "their range."
    )
    return _Figure("objectives", "What each objective buys", caption, draw_objectives(studies, varied))


def _reductions(studies: Sequence[ComparedStudy], varied: Sequence[str]) -> _Figure:
    figure = new_figure(11, 6)
    axes = figure.add_subplot()
    found = _scatter(axes, studies, varied, MSE_REDUCTION, REDUCTION)
    if found:
        mark_equal_reductions(axes)
        _legend(axes)
    caption = "One point per study. Above the diagonal, the NFM removes the error that matters to the LM."
    title = "KL reduction against squared-error reduction"
    return _Figure("kl_vs_mse_reduction", title, caption, figure if found else None)


def _gain_against_quality(studies: Sequence[ComparedStudy], varied: Sequence[str]) -> _Figure:
    title = "What the NFM gains against the quality of the SAE"
    if by_sae := draw_quality(studies, varied):
        caption = (
            "Does a better SAE leave less for the NFM? The larger a point, the more latents are active (L0). "
            "Bars, where points are few: 95% interval of a study or, of several seeds, their range."
        )
        return _Figure("gain_vs_quality", title, caption, by_sae)
    up = [m for m in (REDUCTION, MARGINAL) if any(study.values[m.name] for study in studies)]
    caption = "One point per study: does a better SAE leave less for the NFM, and for interactions?"
    if not up:
        return _Figure("gain_vs_quality", title, caption, None)
    figure = new_figure(6.5 * len(up), 5.4)
    panels = figure.subplots(1, len(up), squeeze=False)[0]
    found = 0
    for axes, measure in zip(panels, up, strict=True):
        found += _scatter(axes, studies, varied, EXPLAINED_VARIANCE, measure)
        axes.axhline(0, color="#999999", lw=1)
        axes.grid()
    if found:
        _legend(panels[-1])
    return _Figure("gain_vs_quality", title, caption, figure if found else None)


def _scatter(
    axes: Axes, studies: Sequence[ComparedStudy], varied: Sequence[str], across: Measure, up: Measure
) -> int:
    """Draw a point per study, told apart by the first setting that takes few values; return how many.

    None where all lie at one place of the axis across: there is nothing to see along it.
    """
    points = [
        (study, x, y)
        for study in studies
        if (x := study.values[across.name]) and (y := study.values[up.name])
    ]
    if len({x.value for _, x, _ in points}) < 2:
        return 0
    measured = [study for study, _, _ in points]
    keys = [key for key in varied if key != "seed" and 1 < len(distinct(measured, key)) <= len(SERIES)]
    groups = [text(value) for value in distinct(measured, keys[0])] if keys else []
    for study, x, y in points:
        colour, marker, _ = SERIES[groups.index(text(study.setting(keys[0])))] if keys else (GRAY, "o", "")
        if len(points) <= _CROWD:
            draw_cross(axes, x, y, colour, marker)
        else:
            axes.plot(100 * x.value, 100 * y.value, marker, color=colour, mfc="none", ms=5)
    for group, (colour, marker, _) in zip(groups, SERIES, strict=False):
        style = {"color": colour, "mfc": "none", "mew": 2, "ms": 10, "ls": "none"}
        axes.plot([], [], marker=marker, label=f"{keys[0]}={group}", **style)
    axes.set_xlabel(across.axis_label)
    axes.set_ylabel(up.axis_label)
    return len(points)


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
