"""Every reconstruction's KL above those of its own matched baselines."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sae_nfm.report.conditions import BASELINES, described, grouped_conditions, label
from sae_nfm.report.estimates import Estimate, condition_kl, format_value, pathology
from sae_nfm.report.plotstyle import condition_style, plain_log_ticks
from sae_nfm.report.themed import BAND, INK, PAPER, QUIET, report_figure

_MANY = 40  # rows
_LEFT = 0.6  # share of the width, from which a name stands to the left of its point


class _Room(NamedTuple):
    """What a figure of so many rows has for each."""

    row: float  # inches
    size: float  # of type, points


def draw_conditions(result: Mapping[str, Any]) -> Figure | None:
    """Mean KL with its interval: a group per reconstruction, with a row for it and each of its baselines."""
    groups = {
        reconstruction: found
        for reconstruction, names in grouped_conditions(result).items()
        if (found := [(name, kl) for name in names if (kl := condition_kl(result, name)) and kl.value > 0])
    }
    if not groups:
        return None
    rows = sum(1.3 + len(found) for found in groups.values())
    room = _Room(0.2, 9.5) if rows <= _MANY else _Room(0.155, 8)
    figure = report_figure(0.75 + room.row * rows)
    axes = figure.add_subplot()
    _scale(
        axes, [end for found in groups.values() for _, kl in found for end in (kl.value, kl.high or kl.value)]
    )
    axes.set_ylim(rows - 0.3, -0.7)
    top = 0.0
    for i, (reconstruction, found) in enumerate(groups.items()):
        if i % 2 == 0:
            axes.axhspan(top - 0.65, top + len(found) + 0.65, color=BAND, lw=0, zorder=0)
        _draw_heading(axes, result, reconstruction, found, top, room)
        for j, (name, kl) in enumerate(found, start=1):
            _draw_row(axes, result, name, kl, top + j, room)
        top += 1.3 + len(found)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_xlabel("mean KL(clean ‖ spliced), nats/token, with 95% interval")
    return figure


def _scale(axes: Axes, values: list[float]) -> None:
    if max(values) > 30 * min(values):
        axes.set_xscale("log")
        axes.set_xlim(min(values) / 1.5, max(values) * 1.5)
        plain_log_ticks(axes.xaxis)
    else:
        axes.set_xlim(0, 1.06 * max(values))


def _draw_heading(
    axes: Axes,
    result: Mapping[str, Any],
    reconstruction: str,
    found: list[tuple[str, Estimate]],
    y: float,
    room: _Room,
) -> None:
    """The name of a group on the left; on the right its KL and, where it has one, its multiple of ε's."""
    name, kl = found[0]
    ratio = pathology(result, name)
    said = format_value(kl) + (f" = {format_value(ratio, 2, '')} × ε-random" if ratio else "")
    style = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": room.size + 1}
    axes.annotate(label(result, reconstruction), (0.01, y), weight="bold", **style)
    axes.annotate(said, (0.99, y), ha="right", **style)


def _draw_row(axes: Axes, result: Mapping[str, Any], name: str, kl: Estimate, y: float, room: _Room) -> None:
    baseline = described(result, name).baseline
    colour, marker, _ = condition_style(result, name)
    colour, face = (QUIET, PAPER) if baseline else (colour, colour)
    low, high = (kl.value, kl.value) if kl.low is None or kl.high is None else (kl.low, kl.high)
    axes.plot([low, high], [y, y], color=colour, lw=2, solid_capstyle="butt")
    axes.plot(kl.value, y, "o" if baseline else marker, color=colour, mfc=face, ms=0.6 * room.size, mew=1.3)
    if not baseline:
        return
    at = axes.transAxes.inverted().transform(axes.transData.transform((kl.value, y)))[0]
    end, shift, side = (low, -6, "right") if at > _LEFT else (high, 6, "left")
    axes.annotate(
        BASELINES.get(baseline, baseline), (end, y), (shift, 0), textcoords="offset points",
        ha=side, va="center", fontsize=room.size, color=INK,
    )  # fmt: skip
