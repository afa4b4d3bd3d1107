"""What each setting changes, as a forest: a row for every step, a panel for every measure."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sae_nfm.compare.changes import Change, moved
from sae_nfm.compare.differences import difference
from sae_nfm.compare.measures import Measure
from sae_nfm.report.plotstyle import GRAY, SERIES, new_figure

MOST_ROWS = 30
_BELOW = 0.28  # of a row, where single pairs are marked


def draw_changes(found: Sequence[Change]) -> Figure | None:
    """The mean difference of each step with its interval, and below it that of every pair.

    Filled where studies are paired by document, hollow where they are taken as independent. Of many steps
    the first `MOST_ROWS`.
    """
    found = found[:MOST_ROWS]
    measures = moved(found)
    if not measures:
        return None
    num_rows = (len(measures) + 1) // 2
    figure = new_figure(12.5, num_rows * (1.1 + 0.45 * len(found)))
    panels = figure.subplots(num_rows, 2, squeeze=False, sharey=True).flatten()
    settings = list(dict.fromkeys(change.setting for change in found))
    styles = {setting: SERIES[i % len(SERIES)] for i, setting in enumerate(settings)}
    for axes, measure in zip(panels, measures, strict=False):
        _draw_panel(axes, found, measure, styles)
    panels[0].set_yticks(range(len(found)), [change.name for change in found])
    panels[0].set_ylim(len(found) - 0.4, -0.6)
    for axes in panels[len(measures) :]:
        axes.set_axis_off()
    return figure


def _draw_panel(axes: Axes, found: Sequence[Change], measure: Measure, styles: Mapping[str, tuple]) -> None:
    for y, change in enumerate(found):
        colour, marker, _ = styles[change.setting]
        if (mean := change.of(measure)) is None:
            continue
        each = [shown for pair in change.pairs if (shown := difference(measure, pair))]
        if len(each) > 1:
            values = [measure.plotted(single.size).value for single in each]
            axes.plot(values, [y + _BELOW] * len(each), "|", color=GRAY, ms=7, mew=1)
        size = measure.plotted(mean.size)
        if size.low is not None and size.high is not None:
            axes.plot([size.low, size.high], [y, y], color=colour, lw=2.2, solid_capstyle="butt")
        face = colour if mean.paired else "white"
        axes.plot(size.value, y, marker, color=colour, mfc=face, ms=7.5, mew=1.6)
    axes.axvline(0, color="#999999", lw=1, zorder=0)
    axes.set_xlabel(f"Δ {measure.difference_label}")
    axes.locator_params(axis="x", nbins=5)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
