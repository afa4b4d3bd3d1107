"""The figures of one study, drawn from its `result.json` alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from sae_nfm.report.condition_figure import draw_conditions
from sae_nfm.report.conditions import described, grouped_conditions, label, of_role
from sae_nfm.report.curve_figure import draw_curves
from sae_nfm.report.estimates import kl_reduction, mse_reduction
from sae_nfm.report.plotstyle import condition_style, draw_cross, label_ends, mark_equal_reductions, styled
from sae_nfm.report.spread_figures import draw_documents, draw_positions
from sae_nfm.report.themed import compact, report_figure, save_both


def draw_figures(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw every figure that the result has the data for, as a PNG and as an SVG beside it.

    Args:
        result: the content of a study's `result.json`.
        folder: where they go; made if absent.

    Returns:
        The PNGs that were written, in the order in which a reader wants them.
    """
    figures = {
        "kl_by_condition": draw_conditions,
        "kl_vs_mse_reduction": _draw_reductions,
        "kl_by_position": draw_positions,
        "kl_by_document": draw_documents,
        "training_curves": draw_curves,
    }
    with styled(), compact():
        drawn = {name: draw(result) for name, draw in figures.items()}
        return [save_both(figure, Path(folder) / f"{name}.png") for name, figure in drawn.items() if figure]


def _draw_reductions(result: Mapping[str, Any]) -> Figure | None:
    """How much KL each reconstruction takes off the SAE's, against how much squared error."""
    points, sae = {}, of_role(result, "sae")
    for name in grouped_conditions(result):
        kl, mse = kl_reduction(result, name), mse_reduction(result, name)
        if described(result, name).role not in ("clean", "zero", "mean") and name != sae and kl and mse:
            points[name] = (mse, kl)
    if not points:
        return None
    figure = report_figure(4)
    axes = figure.add_subplot()
    ends = []
    for name, (mse, kl) in points.items():
        colour, marker, _ = condition_style(result, name)
        draw_cross(axes, mse, kl, colour, marker, 8)
        ends.append((100 * mse.value, 100 * kl.value, label(result, name), {"color": "#999999", "lw": 0.8}))
    mark_equal_reductions(axes)
    axes.set_xlabel("reduction of squared error, %")
    axes.set_ylabel("reduction of KL, %")
    label_ends(axes, ends)
    return figure
