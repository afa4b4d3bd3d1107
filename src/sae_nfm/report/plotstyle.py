"""How every figure looks: Okabe-Ito colours that differ in gray as well, and type for a talk."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from sae_nfm.report.conditions import described, role_in_headlines
from sae_nfm.report.estimates import Estimate
from sae_nfm.store.files import replacing

BLACK, ORANGE, GREEN = "#000000", "#E69F00", "#009E73"
BLUE, VERMILLION, PURPLE, GRAY = "#0072B2", "#D55E00", "#CC79A7", "#767676"
SKY = "#56B4E9"
DASHED, DASHDOT, DOTTED = (0, (5, 2)), (0, (5, 1.5, 1, 1.5)), (0, (1, 1.6))

# (colour, marker, line style): no two share a marker, so print in gray still tells them apart
SERIES = (
    (VERMILLION, "o", "-"),
    (BLUE, "D", "-"),
    (GREEN, "s", DASHED),
    (PURPLE, "^", DASHDOT),
    (ORANGE, "v", DASHED),
    (BLACK, "X", DASHDOT),
    (SKY, "P", DOTTED),
)
_MOST_IN_LEGEND = 6  # of series that only a shade tells apart
_ROLES = {
    "sae": SERIES[0],
    "nfm": SERIES[1],
    "linear": SERIES[2],
    "interaction": SERIES[3],
}
_OTHER = ("#1a1a1a", "P", DASHDOT)  # a drawing leaves out pure black, and so keeps it in the dark

_STYLE: dict[Any, Any] = {
    "font.size": 14,
    "font.family": "DejaVu Sans",  # bundled with matplotlib: the same page on every machine
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 15,
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "figure.dpi": 130,
    "savefig.facecolor": "white",
}


def series_styles(names: Sequence[str]) -> dict[str, tuple]:
    """Colour, marker and line style of every series; shades in their order where styles do not suffice."""
    if len(names) <= len(SERIES):
        return dict(zip(names, SERIES, strict=False))
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(names)))
    return {name: (to_hex(shade), "o", "-") for name, shade in zip(names, shades, strict=True)}


def in_legend(styles: Mapping[str, tuple]) -> dict[str, tuple]:
    """The series that a legend names: all, or of many some from the first to the last."""
    if len(styles) <= len(SERIES):
        return dict(styles)
    chosen = np.linspace(0, len(styles) - 1, _MOST_IN_LEGEND).round().astype(int)
    names = list(styles)
    return {names[i]: styles[names[i]] for i in chosen}


def role_style(role: str) -> tuple:
    """Colour, marker and line style of the reconstruction that has a role, the same in every figure."""
    return _ROLES.get(role, _OTHER)


def condition_style(result: Mapping[str, Any], name: str) -> tuple:
    """That of a condition's reconstruction."""
    return role_style(role_in_headlines(result, described(result, name).reconstruction))


def styled() -> AbstractContextManager[None]:
    """A context in which figures get the house style; the caller's own settings come back after it."""
    return matplotlib.rc_context(_STYLE)


def new_figure(width: float, height: float) -> Figure:
    """A figure in inches, outside pyplot's global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write the figure in the format of the suffix, whole or not at all, making its folder."""
    kind = path.suffix.removeprefix(".")
    undated = {"CreationDate": None} if kind == "pdf" else None  # the same figure is the same file
    with replacing(path) as partial:
        figure.savefig(partial, format=kind, metadata=undated)
    return path


def spread(values: list[float], gap: float) -> list[float]:
    """Move label positions apart to at least `gap`, keeping their order and, roughly, their middle."""
    order = sorted(range(len(values)), key=values.__getitem__)
    placed = [values[i] for i in order]
    for _ in range(200):
        for i in range(1, len(placed)):
            overlap = gap - (placed[i] - placed[i - 1])
            if overlap > 0:
                placed[i - 1] -= overlap / 2
                placed[i] += overlap / 2
    return [placed[order.index(i)] for i in range(len(values))]


def label_ends(axes: Axes, ends: list[tuple[float, float, str, dict]]) -> None:
    """Write names at the right, moved apart where they meet, each joined to its line or point.

    Args:
        axes: axes whose limits are final.
        ends: x and y in data coordinates, the text, and the properties of the joining line.
    """
    to_fraction = axes.transData + axes.transAxes.inverted()
    heights = [float(to_fraction.transform((x, y))[1]) for x, y, _, _ in ends]
    pixels = 1.3 * matplotlib.rcParams["font.size"] / 72 * matplotlib.rcParams["figure.dpi"]
    line_height = pixels / axes.bbox.height
    for (x, y, text, line), height in zip(ends, spread(heights, line_height), strict=True):
        axes.annotate(
            text,
            xy=(x, y),
            xytext=(1.05, height),
            textcoords="axes fraction",
            va="center",
            arrowprops={"arrowstyle": "-", "shrinkA": 2, "shrinkB": 0, "relpos": (0, 0.5), **line},
            annotation_clip=False,
            zorder=1.5,  # the joining line passes under the points
        )


def plain_log_ticks(axis: Axis) -> None:
    """Write 0.01, 0.1, 1 on a logarithmic axis instead of powers of ten."""
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def draw_cross(axes: Axes, x: Estimate, y: Estimate, colour: str, marker: str, size: float = 10) -> None:
    """A hollow point in percent with both its intervals; hollow, so that a point under it still shows."""
    x, y = x.scaled(100), y.scaled(100)
    draw_intervals(axes, x, y, colour, 0.15 * size)
    axes.plot(x.value, y.value, marker, color=colour, mfc="none", mew=0.2 * size, ms=size)


def draw_intervals(axes: Axes, x: Estimate, y: Estimate, colour: str, width: float) -> None:
    """The intervals of a point, where it has them, as a horizontal and a vertical line."""
    if x.low is not None and x.high is not None:
        axes.plot([x.low, x.high], [y.value, y.value], color=colour, lw=width)
    if y.low is not None and y.high is not None:
        axes.plot([x.value, x.value], [y.low, y.high], color=colour, lw=width)


def mark_equal_reductions(axes: Axes) -> None:
    """Draw zero lines and the diagonal on which KL falls as much as squared error."""
    axes.axhline(0, color="#999999", lw=1)
    axes.axvline(0, color="#999999", lw=1)
    axes.margins(0.12)
    axes.autoscale_view()
    axes.set_autoscale_on(False)
    axes.axline(
        (0, 0), slope=1, color="#999999", lw=1.4, ls=DOTTED, label="KL falls as much as squared error"
    )
    axes.grid()
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1))
