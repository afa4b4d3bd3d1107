"""Figures of a report, as PNG and as an SVG that has a dark side; most of them narrow, with large type."""

import io
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from sae_nfm.report.plotstyle import new_figure, save
from sae_nfm.store.files import write_atomically

WIDTH = 5.6
"""Inches: on a page of 370 pixels type of 11 points is still 10 pixels high."""
INK, QUIET, RULE, BAND, PAPER = "#1a1a1a", "#5c5c5c", "#dddddd", "#f4f4f4", "#ffffff"
_IN_THE_DARK = {
    INK: "#e8e8e8",
    "#000000": "#e8e8e8",
    QUIET: "#a6a6a6",
    "#444444": "#bdbdbd",
    "#767676": "#9a9a9a",
    "#777777": "#9a9a9a",
    "#999999": "#8b929a",
    RULE: "#3a3f44",
    BAND: "#1e2228",
    PAPER: "#15181b",
    "#0072b2": "#4fa9e0",  # blue is too dark on black
    "#d55e00": "#f07f2e",
    "#009e73": "#2fc195",
}
_COMPACT: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlepad": 7,
    "figure.dpi": 256,
}
_THEMED: dict[Any, Any] = {
    "svg.fonttype": "none",  # text that can be searched, and edited in a talk
    "svg.hashsalt": "sae_nfm",  # the same result gives the same file
    "grid.color": RULE,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}
_NO_METADATA: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def themed() -> AbstractContextManager[None]:
    """A context, inside the house style, for figures that are saved with a dark side."""
    return matplotlib.rc_context(_THEMED)


def compact() -> AbstractContextManager[None]:
    """The same for figures that are narrow enough for a phone."""
    return matplotlib.rc_context(_COMPACT | _THEMED)


def report_figure(height: float) -> Figure:
    """A figure of the report's width and a height in inches."""
    return new_figure(WIDTH, height)


def save_both(figure: Figure, path: Path) -> Path:
    """Write the PNG at a path, and the SVG beside it, each whole or not at all.

    Returns:
        The path of the PNG.
    """
    if (layout := figure.get_layout_engine()) is not None:
        layout.execute(figure)
        figure.set_layout_engine(None)  # it would draw everything once more for every file
    save(figure, path)
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", transparent=True, metadata=_NO_METADATA)
    write_atomically(path.with_suffix(".svg"), with_dark_side(drawn.getvalue(), _IN_THE_DARK))
    return path


def with_dark_side(svg: str, colours: Mapping[str, str]) -> str:
    """The drawing with a rule that swaps its colours where the reader's screen is dark.

    The colours of the drawing stay as they are, so that programs that know no such rules show it right.
    """
    rules = "".join(
        f'[style*="{what}: {light}"]{{{what}:{dark}!important}}'
        for light, dark in colours.items()
        for what in ("fill", "stroke")
    )
    opening = '<style type="text/css">'
    assert opening in svg
    return svg.replace(opening, f"{opening}@media (prefers-color-scheme: dark){{{rules}}}", 1)
