"""The figures of a comparison: over each varied setting, over two, and one measure against another."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sae_nfm.compare.measures import EXPLAINED_VARIANCE, MARGINAL, MSE_REDUCTION, REDUCTION, Measure
from sae_nfm.compare.objectives import draw_objectives
from sae_nfm.compare.over_settings import draw_over_setting, draw_over_two
from sae_nfm.compare.quality import draw_quality
from sae_nfm.compare.studies import ComparedStudy
from sae_nfm.compare.varied import distinct, numeric, text
from sae_nfm.report.plotstyle import GRAY, SERIES, draw_cross, mark_equal_reductions, new_figure, save, styled

_MOST_LINES = 6
_MOST_HEATMAPS = 3
_CROWD = 60  # points from which they are drawn small
_MOST_VALUES = 20  # of a setting that is not a number, on one axis


class Drawn(NamedTuple):
    """A figure with what the page says about it."""

    path: Path
    title: str
    caption: str


def draw_comparison(studies: Sequence[ComparedStudy], varied: Sequence[str], folder: Path) -> list[Drawn]:
    """Draw every figure that the studies have the data for, and remove those of an earlier comparison.

    Args:
        studies: at least one.
        varied: the settings that differ between them.
        folder: where `compare_*.png` go; made if absent.
    """
    for old in folder.glob("compare_*.png"):
        old.unlink()
    with styled():
        figures = [
            *_over_settings(studies, varied),
            _objectives(studies, varied),
            _reductions(studies, varied),
            _gain_against_quality(studies, varied),
        ]
        return [
            Drawn(save(figure, folder / f"compare_{name}.png"), title, caption)
            for name, title, caption, figure in figures
            if figure
        ]


def _over_settings(
    studies: Sequence[ComparedStudy], varied: Sequence[str]
) -> list[tuple[str, str, str, Figure | None]]:
    numbers = [key for key in varied if numeric(distinct(studies, key)) and key != "seed"]
    words = [key for key in varied if key not in numbers and len(distinct(studies, key)) <= _MOST_VALUES]
    bars = "Bars: 95% interval of a study; where several studies share a point, their range."
    lines = [
        (f"over_{_slug(key)}", f"Over {key}", bars, draw_over_setting(studies, key, varied))
        for key in [*numbers, *(key for key in words if key != "seed")][:_MOST_LINES]
    ]
    cells = "Where several studies share a cell, their mean."
    heatmaps = [
        (f"{_slug(a)}_by_{_slug(b)}", f"Over {a} and {b}", cells, draw_over_two(studies, a, b))
        for a, b in itertools.islice(itertools.combinations(numbers, 2), _MOST_HEATMAPS)
    ]
    return lines + heatmaps


def _slug(key: str) -> str:
    return re.sub(r"\W+", "_", key)


def _objectives(
    studies: Sequence[ComparedStudy], varied: Sequence[str]
) -> tuple[str, str, str, Figure | None]:
    caption = (
        "KL against squared error: lower left is better. Further left is closer to the activation, further "
        "down to what the LM makes of it. Bars: 95% interval of a study; where several seeds share a point, "
        "their range."
    )
    return "objectives", "What each objective buys", caption, draw_objectives(studies, varied)


def _reductions(
    studies: Sequence[ComparedStudy], varied: Sequence[str]
) -> tuple[str, str, str, Figure | None]:
    figure = new_figure(11, 6)
    axes = figure.add_subplot()
    found = _scatter(axes, studies, varied, MSE_REDUCTION, REDUCTION)
    if found:
        mark_equal_reductions(axes)
        _legend(axes)
    caption = "One point per study. Above the diagonal, the NFM removes the error that matters to the LM."
    title = "KL reduction against squared-error reduction"
    return "kl_vs_mse_reduction", title, caption, figure if found else None


def _gain_against_quality(
    studies: Sequence[ComparedStudy], varied: Sequence[str]
) -> tuple[str, str, str, Figure | None]:
    title = "What the NFM gains against the quality of the SAE"
    if by_sae := draw_quality(studies, varied):
        caption = (
            "Does a better SAE leave less for the NFM? The larger a point, the more latents are active (L0). "
            "Bars: 95% interval of a study; where several seeds share a point, their range."
        )
        return "gain_vs_quality", title, caption, by_sae
    figure = new_figure(13, 5.4)
    left, right = figure.subplots(1, 2)
    found = 0
    for axes, measure in ((left, REDUCTION), (right, MARGINAL)):
        found += _scatter(axes, studies, varied, EXPLAINED_VARIANCE, measure)
        axes.axhline(0, color="#999999", lw=1)
        axes.grid()
    _legend(right)
    caption = "One point per study: does a better SAE leave less for the NFM, and for interactions?"
    return "gain_vs_quality", title, caption, figure if found else None


def _scatter(
    axes: Axes, studies: Sequence[ComparedStudy], varied: Sequence[str], across: Measure, up: Measure
) -> int:
    """Draw a point per study, told apart by the first setting that takes few values; return how many."""
    points = [
        (study, x, y)
        for study in studies
        if (x := study.values[across.name]) and (y := study.values[up.name])
    ]
    measured = [study for study, _, _ in points]
    keys = [key for key in varied if key != "seed" and 1 < len(distinct(measured, key)) <= len(SERIES)]
    groups = [text(value) for value in distinct(measured, keys[0])] if keys else []
    for study, x, y in points:
        colour, marker, _ = SERIES[groups.index(text(study.setting(keys[0])))] if keys else (GRAY, "o", "")
        draw_cross(axes, x, y, colour, marker, 10 if len(points) <= _CROWD else 5)
    for group, (colour, marker, _) in zip(groups, SERIES, strict=False):
        style = {"color": colour, "mfc": "none", "mew": 2, "ms": 10, "ls": "none"}
        axes.plot([], [], marker=marker, label=f"{keys[0]}={group}", **style)
    axes.set_xlabel(across.axis_label)
    axes.set_ylabel(up.axis_label)
    return len(points)


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
