"""The figures of an attribution, drawn from its files alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sae_nfm.report.attributed import Attributed, Drawn, Pair, named_pairs
from sae_nfm.report.estimates import Estimate, estimate, format_estimate, number
from sae_nfm.report.plotstyle import (
    BLUE,
    DASHDOT,
    DASHED,
    DOTTED,
    GRAY,
    GREEN,
    VERMILLION,
    new_figure,
    plain_log_ticks,
    styled,
)
from sae_nfm.report.themed import INK, PAPER, save_both, themed

_ORDERS = {  # label, colour, marker, line
    "attribution": ("by attribution", BLUE, "D", "-"),
    "matched": ("matched in size and occurrence", VERMILLION, "o", DASHED),
    "size": ("by size", GREEN, "s", DASHDOT),
    "random": ("random", GRAY, "v", DOTTED),
}
_ERROR = {  # label, colour
    "linear": ("linear part", GREEN),
    "interactions": ("interactions", BLUE),
    "rest": ("what remains", "#bbbbbb"),
}
_ABLATIONS = {
    "both_ways": "both, the mean",
    "left_out": "left out of all",
    "given": "added to the linear part",
}
_CAPTIONS = {  # title, caption
    "attribution_network": (
        "The named pairs as a network",
        "Nodes are latents, edges the named pairs. Width and colour: the share of the gain on the half that "
        "did not choose, and its sign. Solid: holds there after Holm's correction.",
    ),
    "attribution_curves": (
        "What pairs take away when left out, and give alone",
        "The first n pairs by what they take off the KL on the half that chose, and as many of three "
        "controls, all on the other half. Left: without them, against all interactions. Right: with nothing "
        "but them, against no interactions. Other pairs add to the KL, so that those that lower it can take "
        "away more than all of the gain.",
    ),
    "attribution_against_ablation": (
        "Attribution against ablation of single pairs",
        "A point is a pair. Across: what it takes off the KL by attribution. Up: by ablation in the same "
        "blocks, as what is lost when it is left out of all interactions, what it gives when it is added "
        "alone to the linear part, and the mean of both. Dotted: the same by both.",
    ),
    "attribution_error": (
        "What the whole KL of the SAE is made of",
        "The SAE's error in three parts: what the linear part gives of it, what the interactions give, and "
        "what remains; and what each takes off the KL on the straight way from the SAE's reconstruction to "
        "the activation.",
    ),
}
_DOTS = (0, (1, 0.8))
_STARTS, _STEPS = 12, 400
_ASPECT = 1.7


def draw_attribution(attributed: Attributed, folder: Path) -> list[Drawn]:
    """Draw every figure that the attribution has the data for.

    Args:
        attributed: what the study's folder holds.
        folder: where the PNGs go; made if absent.
    """
    found = attributed.found
    with styled(), themed():
        drawn = {
            "attribution_network": _draw_network(named_pairs(attributed)),
            "attribution_curves": _draw_curves(found["curves"]["orders"]),
            "attribution_against_ablation": _draw_ablations(found["single_pairs"]),
            "attribution_error": _draw_error(found.get("error")),
        }
        return [
            Drawn(save_both(figure, Path(folder) / f"{name}.png"), *_CAPTIONS[name])
            for name, figure in drawn.items()
            if figure
        ]


def _draw_network(pairs: Sequence[Pair]) -> Figure | None:
    """Latents as nodes, pairs as edges."""
    drawn = [(pair, pair.share.value) for pair in pairs if pair.share]
    if not drawn:
        return None
    latents = sorted({latent for pair, _ in drawn for latent in (pair.i, pair.j)})
    ends = np.array([[latents.index(pair.i), latents.index(pair.j)] for pair, _ in drawn])
    places = _layout(len(latents), ends)
    largest = max(abs(share) for _, share in drawn) or 1.0
    width, height = np.ptp(places, axis=0).clip([6, 0]) + 0.8
    figure = new_figure(11, 1 + 10.6 * height / width)
    axes = figure.add_subplot()
    unit = 72 * 10.6 / width  # points
    for (pair, share), (a, b) in zip(drawn, ends, strict=True):
        axes.plot(
            *places[[a, b]].T,
            color=BLUE if share > 0 else VERMILLION,
            lw=1.2 + 8 * abs(share) / largest,
            ls="-" if pair.holds else _DOTS,
            solid_capstyle="round",
            zorder=1,
        )
    area, font = (0.56 * unit) ** 2, min(0.8 * unit / max(len(str(n)) for n in latents), 16)
    axes.scatter(*places.T, s=area, color=PAPER, edgecolors="#444444", linewidths=1.4, zorder=2)
    for latent, (x, y) in zip(latents, places, strict=True):
        axes.text(x, y, str(latent), ha="center", va="center", fontsize=font, zorder=3)
    axes.set_aspect("equal")
    x, y = (places.min(0) + places.max(0)) / 2
    axes.set_xlim(x - width / 2, x + width / 2)
    axes.set_ylim(y - height / 2, y + height / 2)
    axes.set_axis_off()
    lines = [Line2D([], [], color=colour, lw=5) for colour in (BLUE, VERMILLION)]
    lines += [Line2D([], [], color="#444444", lw=4, ls=style) for style in ("-", _DOTS)]
    labels = ["lowers the KL", "raises it", "holds on the other half", "does not"]
    figure.legend(lines, labels, loc="outside upper center", ncols=4, columnspacing=1.4)
    return figure


def _layout(nodes: int, ends: np.ndarray) -> np.ndarray:
    """Places of nodes, [node, 2], about 1 apart: of several layouts that with the fewest crossings."""
    generator = np.random.default_rng(0)  # the same picture in every run
    layouts = [_settled(6 * generator.uniform(-1, 1, (nodes, 2)), ends) for _ in range(_STARTS)]
    return min(layouts, key=lambda places: _crossings(places[ends]))


def _settled(places: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Edges are springs, and nodes push each other away: with a force that grows from nothing, so that what
    is joined gathers before it spreads.
    """
    for step in range(_STEPS):
        done = step / _STEPS
        apart = places[:, None] - places[None]
        distance = np.linalg.norm(apart, axis=2, keepdims=True).clip(0.05)
        force = done * (apart / distance**4).sum(1) - 0.15 * places * [1 / _ASPECT, _ASPECT]
        pull = places[ends[:, 1]] - places[ends[:, 0]]
        pull *= 1 - 1 / np.linalg.norm(pull, axis=1, keepdims=True).clip(0.05)
        np.add.at(force, ends[:, 0], pull)
        np.add.at(force, ends[:, 1], -pull)
        size = np.linalg.norm(force, axis=1, keepdims=True).clip(1e-9)
        places = places + force / size * np.minimum(0.3 * size, 0.4 * (1 - done))
    return places


def _crossings(edges: np.ndarray) -> int:
    """How many edges, [edge, end, 2], cross another: the ends of each lie on both sides of the other."""
    start, along = edges[:, 0], edges[:, 1] - edges[:, 0]
    to = edges[None] - start[:, None, None]  # of an edge, to both ends of another
    side = along[:, None, None, 0] * to[..., 1] - along[:, None, None, 1] * to[..., 0]
    parted = side[..., 0] * side[..., 1] < -1e-9
    return int((parted & parted.T).sum()) // 2


def _draw_curves(orders: Mapping[str, Any]) -> Figure | None:
    """Shares of the gain against the number of pairs, of each order."""
    figure = new_figure(11, 5.6)
    left, right = figure.subplots(1, 2)
    drawn = [
        _draw_curve(axes, name, orders[name]["sizes"], map(estimate, orders[name][what]))
        for axes, what in ((left, "taken_away"), (right, "given_alone"))
        for name in _ORDERS
        if name in orders
    ]
    if not any(drawn):
        return None
    for axes, title in ((left, "taken away when left out"), (right, "given when alone")):
        axes.set_title(title)
        axes.set_xscale("log")
        plain_log_ticks(axes.xaxis)
        axes.axhline(0, color="#999999", lw=1)
        axes.axhline(100, color="#999999", lw=1.4, ls=DOTTED)
        axes.grid(axis="y")
        axes.set_xlabel("number of pairs")
    left.set_ylabel("share of the gain, % (band: 95% interval)")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, handlelength=2.6, columnspacing=1.2)
    return figure


def _draw_curve(axes: Axes, name: str, sizes: Sequence[int], shares: Any) -> bool:
    """One line with its band; False if there is nothing to draw."""
    known = [(size, share.scaled(100)) for size, share in zip(sizes, shares, strict=True) if share]
    if not known:
        return False
    label, colour, marker, line = _ORDERS[name]
    x, y = [size for size, _ in known], [share.value for _, share in known]
    axes.plot(x, y, color=colour, marker=marker, ls=line, lw=2.2, ms=7, label=label)
    low = [share.value if share.low is None else share.low for _, share in known]
    high = [share.value if share.high is None else share.high for _, share in known]
    axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
    return True


def _draw_ablations(singles: Mapping[str, Any]) -> Figure | None:
    """What pairs take off by attribution, and by each way of ablation."""
    x = np.array(singles["attributed"])
    if not len(x):
        return None
    sizes = np.abs([x, *(singles[name] for name in _ABLATIONS)])
    low, high = (float(size) or 1e-6 for size in (np.quantile(sizes, 0.1), 1.5 * sizes.max()))
    last = int(np.floor(np.log10(high)))
    powers = [10.0**power for power in (last - 2, last) if 10.0**power > 2 * low]
    figure = new_figure(11, 4.8)
    panels = figure.subplots(1, len(_ABLATIONS), sharey=True)
    for axes, (name, title) in zip(panels, _ABLATIONS.items(), strict=True):
        axes.plot(x, singles[name], "o", color=BLUE, ms=5.5, alpha=0.45, mew=0)
        axes.plot([-high, high], [-high, high], color="#777777", lw=1.4, ls=DOTTED)
        for set_scale, set_limits in ((axes.set_xscale, axes.set_xlim), (axes.set_yscale, axes.set_ylim)):
            set_scale("symlog", linthresh=low)
            set_limits(-high, high)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks([*(-power for power in powers), 0, *powers])
            axis.set_major_formatter("{x:g}")
        rank = number(singles["spearman"][name])
        axes.set_title(title + ("" if rank is None else f"\nSpearman {rank:.2f}"))
        axes.set_box_aspect(1)
        axes.grid()
    panels[0].set_ylabel("by ablation, nats")
    figure.supxlabel("by attribution, nats (logarithmic away from 0)", fontsize=14)
    return figure


def _draw_error(error: Mapping[str, Any] | None) -> Figure | None:
    """One bar of the parts of the whole KL; what adds to it stands left of zero."""
    shares = {name: share for name in _ERROR if (share := estimate((error or {}).get(name, {}).get("share")))}
    if len(shares) < len(_ERROR):
        return None
    figure = new_figure(11, 2.7)
    axes = figure.add_subplot()
    ends = {True: 0.0, False: 0.0}
    for name, share in shares.items():
        _draw_segment(axes, name, share.scaled(100), ends)
    axes.axvline(0, color=INK, lw=1)
    axes.set_ylim(-0.5, 0.5)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("share of KL(SAE), % (whiskers: 95% interval of the part)")
    figure.legend(loc="outside upper left", ncols=1)
    return figure


def _draw_segment(axes: Axes, name: str, share: Estimate, ends: dict[bool, float]) -> None:
    label, colour = _ERROR[name]
    positive = share.value >= 0
    start = ends[positive]
    ends[positive] = start + share.value
    shown = f"{label}: {format_estimate(share, 1)}%"
    axes.barh(0, share.value, 0.8, left=start, color=colour, edgecolor=PAPER, label=shown)
    if share.low is not None and share.high is not None:
        axes.plot([start + share.low, start + share.high], [0, 0], color=INK, lw=2)
