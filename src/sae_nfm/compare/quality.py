"""What the NFM gains against how good the SAE is, where families or sparsities of SAEs differ."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sae_nfm.compare.measures import EXPLAINED_VARIANCE, KL_SAE, L0, MARGINAL, REDUCTION, Measure
from sae_nfm.compare.over_settings import LOGARITHMIC, pooled
from sae_nfm.compare.studies import ComparedStudy
from sae_nfm.compare.varied import sort_key, text
from sae_nfm.report.estimates import Estimate
from sae_nfm.report.plotstyle import SERIES, new_figure, plain_log_ticks

_ACROSS = (
    ("explained variance of the SAE, %", EXPLAINED_VARIANCE),
    ("KL of the SAE alone, nats/token", KL_SAE),
)
_UP = (
    ("KL reduction by the NFM, %", REDUCTION),
    ("marginal gain of interactions, % of KL", MARGINAL),
)
_OF_THE_SAE = ("sae", "l0", "sae.k", "sae.l0")  # settings by which the points of a figure differ anyway
_FEWEST_SPARSITIES = 3  # of one family, from which there is a curve to see


class Point(NamedTuple):
    """One SAE: a study, or several that differ in their seed."""

    family: str
    sparsity: float  # k or the L0 that training aims at; of an SAE that has neither, its L0
    others: str  # what else varies
    studies: list[ComparedStudy]

    @property
    def curve(self) -> tuple[str, str]:
        """What the points that are joined have in common."""
        return self.family, self.others

    def read(self, measure: Measure) -> Estimate | None:
        """The study's figure in the unit of the axis, or the mean and range of several studies'."""
        found = [measure.plotted(read) for study in self.studies if (read := study.values[measure.name])]
        return pooled(found) if found else None


def sae_points(studies: Sequence[ComparedStudy], varied: Sequence[str]) -> list[Point]:
    """The SAEs on which an NFM was measured, in order of family and sparsity.

    Returns:
        None at all unless they are of several families or of three sparsities: only then is there a
        question of better and worse SAEs.
    """
    others = [key for key in varied if key not in (*_OF_THE_SAE, "seed")]
    found: dict[tuple, list[ComparedStudy]] = {}
    for study in studies:
        if study.family and all(study.values[m.name] for m in (EXPLAINED_VARIANCE, KL_SAE, REDUCTION)):
            rest = ", ".join(f"{key.rpartition('.')[2]}={text(study.setting(key))}" for key in others)
            found.setdefault((study.family, _sparsity(study), rest), []).append(study)
    points = [Point(*key, of) for key, of in sorted(found.items())]
    families, sparsities = {p.family for p in points}, {p.sparsity for p in points}
    return points if len(families) > 1 or len(sparsities) >= _FEWEST_SPARSITIES else []


def _sparsity(study: ComparedStudy) -> float:
    measured = study.values[L0.name]
    aim = study.setting("sae.k") or study.setting("sae.l0")
    return float(aim or (measured.value if measured else 0))


def draw_quality(studies: Sequence[ComparedStudy], varied: Sequence[str]) -> Figure | None:
    """The NFM's gains over explained variance and over KL of the SAE, a line for each family.

    Points of a line differ in sparsity and are labelled with their L0.
    """
    points = sae_points(studies, varied)
    if not points:
        return None
    up = [(label, measure) for label, measure in _UP if any(point.read(measure) for point in points)]
    styles = _styles(points)
    figure = new_figure(13.5, 4.8 * len(up) + 0.8)
    panels = figure.subplots(len(up), 2, sharex="col", sharey="row", squeeze=False)
    for row, (up_label, above) in zip(panels, up, strict=True):
        row[0].set_ylabel(up_label)
        for axes, (across_label, across) in zip(row, _ACROSS, strict=True):
            _draw_curves(axes, points, styles, across, above)
            if row is panels[-1]:
                axes.set_xlabel(across_label)
    for axes in panels[:, 1]:
        _logarithmic_if_wide(axes, [point.read(KL_SAE) for point in points])
    handles = [
        Line2D([], [], color=colour, marker=marker, ls=line, lw=2, ms=9, label=name)
        for name, (colour, marker, line) in dict(zip(_names(points), styles, strict=True)).items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 6))
    return figure


def _names(points: Sequence[Point]) -> list[str]:
    """Each point's entry in the legend: its curve, or its family alone where curves are too many."""
    curves = list(dict.fromkeys(point.curve for point in points))
    few = len(curves) <= len(SERIES)
    return [", ".join(filter(None, point.curve)) if few else point.family for point in points]


def _styles(points: Sequence[Point]) -> list[tuple]:
    names = _names(points)
    order = list(dict.fromkeys(names))
    return [SERIES[order.index(name) % len(SERIES)] for name in names]


def _draw_curves(
    axes: Axes, points: Sequence[Point], styles: Sequence[tuple], across: Measure, up: Measure
) -> None:
    """A line through the points of every curve, in order of sparsity, with both intervals of each point."""
    curves: dict[tuple, list[tuple[Point, Estimate, Estimate, Any]]] = {}
    for point, style in zip(points, styles, strict=True):
        x, y = point.read(across), point.read(up)
        if x and y:
            curves.setdefault(point.curve, []).append((point, x, y, style))
    for curve in curves.values():
        colour, marker, line = curve[0][3]
        axes.plot([x.value for _, x, _, _ in curve], [y.value for _, _, y, _ in curve], color=colour,
                  marker=marker, ls=line, lw=1.8, ms=8, mfc="white", mew=1.8)  # fmt: skip
        for point, x, y, _ in curve:
            if x.low is not None:
                axes.plot([x.low, x.high], [y.value] * 2, color=colour, lw=1.4)
            if y.low is not None:
                axes.plot([x.value] * 2, [y.low, y.high], color=colour, lw=1.4)
            _label_l0(axes, point, x, y, colour)
    axes.axhline(0, color="#999999", lw=1)
    axes.grid()


def _label_l0(axes: Axes, point: Point, x: Estimate, y: Estimate, colour: str) -> None:
    l0 = point.read(L0)
    if l0 is not None:
        axes.annotate(f"{l0.value:.0f}", (x.value, y.value), (6, 5), textcoords="offset points",
                      color=colour, fontsize=10)  # fmt: skip


def _logarithmic_if_wide(axes: Axes, values: Sequence[Estimate | None]) -> None:
    found = [read.value for read in values if read]
    if min(found) > 0 and max(found) >= LOGARITHMIC * min(found):
        axes.set_xscale("log")
        plain_log_ticks(axes.xaxis)
