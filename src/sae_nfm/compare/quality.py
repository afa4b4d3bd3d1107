"""What the NFM gains against how good the SAE is, where families or sparsities of SAEs differ."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from sae_nfm.compare.measures import EXPLAINED_VARIANCE, KL_SAE, L0, MARGINAL, REDUCTION, Measure
from sae_nfm.compare.over_settings import pooled, wide
from sae_nfm.compare.studies import ComparedStudy
from sae_nfm.compare.varied import text
from sae_nfm.report.estimates import Estimate
from sae_nfm.report.plotstyle import (
    GRAY,
    SERIES,
    draw_intervals,
    in_legend,
    new_figure,
    plain_log_ticks,
    series_styles,
)

_ACROSS = (
    ("explained variance of the SAE, %", EXPLAINED_VARIANCE),
    ("KL of the SAE alone, nats/token", KL_SAE),
)
_UP = (
    ("KL reduction by the NFM, %", REDUCTION),
    ("marginal gain of interactions, % of KL", MARGINAL),
)
_OF_THE_SAE = ("sae", "l0", "sae.k", "sae.l0")  # settings by which the points of a figure differ anyway
_MOST_SIZES = 6
_CROWD = 40  # points from which they are drawn small and without intervals
_FEWEST_SPARSITIES = 3  # of one family, from which there is a curve to see


class Point(NamedTuple):
    """One SAE: a study, or several that differ in their seed."""

    family: str
    sparsity: float  # k or the L0 that training aims at; of an SAE that has neither, its L0
    others: str  # what else varies
    studies: list[ComparedStudy]

    def read(self, measure: Measure) -> Estimate | None:
        """The study's figure in the unit of the axis, or the mean and range of several studies'."""
        found = [measure.plotted(read) for study in self.studies if (read := study.values[measure.name])]
        return pooled(found) if found else None


class _Curve(NamedTuple):
    name: str
    style: tuple  # of `SERIES`
    points: list[Point]


def sae_points(studies: Sequence[ComparedStudy], varied: Sequence[str]) -> list[Point]:
    """The SAEs on which an NFM was measured, in order of family and sparsity.

    Returns:
        None at all unless they are of several families or of three sparsities: only then is there a
        question of better and worse SAEs.
    """
    others = [key for key in varied if key not in (*_OF_THE_SAE, "seed")]
    found: dict[tuple[str, float, str], list[ComparedStudy]] = {}
    for study in studies:
        if study.family and all(study.values[m.name] for m in (EXPLAINED_VARIANCE, KL_SAE, REDUCTION)):
            rest = ", ".join(f"{key.rpartition('.')[2]}={text(study.setting(key))}" for key in others)
            found.setdefault((study.family, _sparsity(study), rest), []).append(study)
    points = [Point(*key, of) for key, of in sorted(found.items(), key=lambda item: item[0][:2])]
    families, sparsities = {p.family for p in points}, {p.sparsity for p in points}
    return points if len(families) > 1 or len(sparsities) >= _FEWEST_SPARSITIES else []


def _sparsity(study: ComparedStudy) -> float:
    measured = study.values[L0.name]
    aim = study.setting("sae.k") or study.setting("sae.l0")
    return float(aim or (measured.value if measured else 0))


def draw_quality(studies: Sequence[ComparedStudy], varied: Sequence[str]) -> Figure | None:
    """The NFM's gains over explained variance and over KL of the SAE, a line for each family.

    Points of a line differ in sparsity: the larger a point, the more latents are active.
    """
    points = sae_points(studies, varied)
    if not points:
        return None
    curves = _curves(points)
    up = [(label, measure) for label, measure in _UP if any(point.read(measure) for point in points)]
    figure = new_figure(13.5, 4.6 * len(up) + 1.4)
    panels = figure.subplots(len(up), 2, sharex="col", sharey="row", squeeze=False)
    for row, (label, above) in zip(panels, up, strict=True):
        row[0].set_ylabel(label)
        for axes, (_, across) in zip(row, _ACROSS, strict=True):
            for curve in curves:
                _draw_curve(axes, curve, across, above, len(points) > _CROWD)
            axes.axhline(0, color="#999999", lw=1)
            axes.grid()
    for axes, (label, _) in zip(panels[-1], _ACROSS, strict=True):
        axes.set_xlabel(label)
    _logarithmic_if_wide(panels[-1, 1], points)
    figure.legend(handles=_names(curves), loc="outside upper center", ncols=len(SERIES))
    figure.legend(handles=_sizes(points), loc="outside lower center", ncols=_MOST_SIZES)
    return figure


def _curves(points: Sequence[Point]) -> list[_Curve]:
    """The points that differ in sparsity alone; told apart by family alone where all would be too many."""
    found: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        found.setdefault((point.family, point.others), []).append(point)
    families, several = {family for family, _ in found}, len({others for _, others in found}) > 1
    if len(families) == 1 and several:
        names = [others for _, others in found]
    elif len(found) <= len(SERIES):
        names = [", ".join(filter(None, key)) for key in found]
    else:
        names = [family for family, _ in found]
    styles = series_styles(list(dict.fromkeys(names)))
    return [_Curve(name, styles[name], of) for name, of in zip(names, found.values(), strict=True)]


def _draw_curve(axes: Axes, curve: _Curve, across: Measure, up: Measure, crowded: bool) -> None:
    """A line in order of sparsity, and both intervals of each point unless it is one of a crowd."""
    colour, marker, line = curve.style
    read = [(x, y, _size(p)) for p in curve.points if (x := p.read(across)) and (y := p.read(up))]
    thick, small = (0.9, 0.5) if crowded else (1.8, 1.0)
    axes.plot([x.value for x, _, _ in read], [y.value for _, y, _ in read], color=colour, ls=line, lw=thick)
    for x, y, size in read:
        if not crowded:
            draw_intervals(axes, x, y, colour, 1.4)
        axes.plot(x.value, y.value, marker, color=colour, mfc="white", mew=thick, ms=small * size)


def _size(point: Point) -> float:
    """In typographic points: larger by the same amount with every doubling of the sparsity."""
    return min(max(2.5 * math.log2(point.sparsity + 1) - 2, 3), 20)


def _names(curves: Sequence[_Curve]) -> list[Line2D]:
    styles = {curve.name: curve.style for curve in curves}
    return [
        Line2D([], [], color=colour, marker=marker, ls=line, lw=2, ms=9, mfc="white", mew=1.8, label=name)
        for name, (colour, marker, line) in in_legend(styles).items()
    ]


def _sizes(points: Sequence[Point]) -> list[Line2D]:
    """The sparsities, or some of them from the least to the most."""
    found = sorted({point.sparsity: point for point in points}.items())
    step = math.ceil(len(found) / _MOST_SIZES)
    style = {"color": GRAY, "marker": "o", "mfc": "white", "mew": 1.8, "ls": "none"}
    return [Line2D([], [], ms=_size(point), label=f"L0 {l0:.4g}", **style) for l0, point in found[::step]]


def _logarithmic_if_wide(axes: Axes, points: Sequence[Point]) -> None:
    if wide([read.value for point in points if (read := point.read(KL_SAE))]):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        plain_log_ticks(axes.xaxis)
