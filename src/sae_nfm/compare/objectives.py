"""What each objective buys, where studies were trained for several: squared error against KL."""

import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from sae_nfm.compare.measures import MARGINAL
from sae_nfm.compare.over_settings import pooled, wide
from sae_nfm.compare.steps import KL, LINEAR, MLP, MSE, NFM, SAE, STEPS, StepMeasure
from sae_nfm.compare.studies import ComparedStudy
from sae_nfm.compare.varied import text
from sae_nfm.report.estimates import Estimate
from sae_nfm.report.plotstyle import DOTTED, GRAY, SERIES, draw_intervals, new_figure, plain_log_ticks

RECONSTRUCTION = "reconstruction"
_SETTINGS = ("nfm_objective", "objective", "sae_objective")  # the first that varies says what for
_TUNING = re.compile(r"tuning_|^stage\.")  # settings that matter to what is tuned for an objective
_PATH = (SAE, LINEAR, NFM)
_BRANCH = (LINEAR, MLP)
_SIZES = {SAE: 8.5, LINEAR: 11, NFM: 15, MLP: 9.5}  # typographic points
_WORDS = {SAE: "SAE alone", MLP: "MLP in place of the NFM"}


class _Place(NamedTuple):
    x: Estimate  # squared error
    y: Estimate  # KL


class Trained(NamedTuple):
    """The studies that were trained for one objective and differ in their seed alone."""

    objective: str
    others: dict[str, str]  # what else varies
    studies: list[ComparedStudy]

    @property
    def name(self) -> str:
        """The objective, and what else tells these studies from others."""
        others = (f"{key.rpartition('.')[2]}={value}" for key, value in self.others.items())
        return ", ".join((self.objective, *others))

    @property
    def marginal(self) -> Estimate | None:
        """The share of KL that interactions take off the best linear reconstruction, over the seeds."""
        found = [read for study in self.studies if (read := study.values[MARGINAL.name])]
        return pooled(found) if found else None

    def has(self, step: str) -> bool:
        """Whether any of the studies measured the step."""
        return any(step in study.steps for study in self.studies)

    def read(self, step: str, measure: StepMeasure) -> Estimate | None:
        """A study's own figure of a step, or the mean and range of several studies'."""
        steps = [study.steps.get(step, {}) for study in self.studies]
        found = [read for of in steps if (read := of.get(measure.name))]
        return pooled(found) if found else None


def by_objective(studies: Sequence[ComparedStudy], varied: Sequence[str]) -> list[Trained]:
    """The studies in groups that differ in what they were trained for, or in another setting.

    Returns:
        Those that measured the SAE or more, the ones fitted to the residual first; none at all unless there
        are several objectives.
    """
    measured = [study for study in studies if study.steps]
    setting = next(
        (key for key in _SETTINGS if len({_objective(study, key) for study in measured}) > 1), None
    )
    if setting is None:
        return []
    objectives = [_objective(study, setting) for study in measured]
    others = [key for key in varied if key != "seed" and not _adds_nothing(measured, key, setting)]
    found: dict[tuple[str, ...], Trained] = {}
    for objective, study in zip(objectives, measured, strict=True):
        rest = {key: text(study.setting(key)) for key in others}
        found.setdefault((objective, *rest.values()), Trained(objective, rest, [])).studies.append(study)
    return sorted(
        found.values(), key=lambda trained: (trained.objective != RECONSTRUCTION, trained.objective)
    )


def _objective(study: ComparedStudy, setting: str) -> str:
    """What a study was trained for; before there were objectives, all were for reconstruction."""
    return text(study.setting(setting) or RECONSTRUCTION)


def _adds_nothing(studies: Sequence[ComparedStudy], key: str, setting: str) -> bool:
    """Whether a setting tells studies of an objective from no others.

    That is so of an objective with one value everywhere, or that of the deciding one; and of how parts are
    tuned, where what is fitted to the residual, and so not tuned, alone has another value.
    """
    objectives = [_objective(study, setting) for study in studies]
    if _TUNING.search(key):
        fitted = [objective == RECONSTRUCTION for objective in objectives]
        values = [text(study.setting(key)) for study in studies]
        return len(set(zip(fitted, values, strict=True))) == len(set(fitted))
    own = [_objective(study, key) for study in studies]
    return key in _SETTINGS and (own == objectives or len(set(own)) == 1)


def draw_objectives(studies: Sequence[ComparedStudy], varied: Sequence[str]) -> Figure | None:
    """KL against squared error: for every objective a path from the SAE over the linear part to the NFM.

    The right panel repeats the end of the paths, from the linear part on, enlarged.
    """
    paths = [trained for trained in by_objective(studies, varied) if _places(trained, STEPS)]
    if len({trained.objective for trained in paths}) < 2:
        return None
    few = len(paths) <= len(SERIES)
    names = [trained.name if few else trained.objective for trained in paths]
    styles = dict(zip(dict.fromkeys(names), itertools.cycle(SERIES), strict=False))
    panels = [("from the SAE on", STEPS), ("from the linear part on, enlarged", STEPS[1:])]
    panels = [panel for panel in panels if any(_places(trained, panel[1]) for trained in paths)]
    figure = new_figure(1 + 6.5 * len(panels), 7.4)
    for axes, (title, steps) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        places = [_places(trained, steps) for trained in paths]
        for name, of in zip(names, places, strict=True):
            _draw_path(axes, of, styles[name])
        _finish(axes, title, [place for of in places for place in of.values()])
    figure.legend(handles=_names(styles), loc="outside upper center", ncols=4)
    figure.legend(handles=_steps(paths), loc="outside lower center", ncols=len(STEPS))
    return figure


def _places(trained: Trained, steps: Sequence[str]) -> dict[str, _Place]:
    """Where the steps are that have both measures."""
    return {
        step: _Place(x, y)
        for step in steps
        if (x := trained.read(step, MSE)) is not None and (y := trained.read(step, KL)) is not None
    }


def _draw_path(axes: Axes, places: dict[str, _Place], style: tuple) -> None:
    """A line over the steps, a branch to what takes the NFM's place, and the interval of every point."""
    colour, marker, line = style
    for steps, ls in ((_PATH, line), (_BRANCH, DOTTED)):
        joined = [places[step] for step in steps if step in places]
        axes.plot([at.x.value for at in joined], [at.y.value for at in joined], color=colour, ls=ls, lw=1.8)
    for x, y in places.values():
        draw_intervals(axes, x, y, colour, 1.4)
    for step in reversed(places):  # small points above large ones
        x, y = places[step]
        axes.plot(x.value, y.value, marker, **_point(step, colour))


def _point(step: str, colour: str) -> dict[str, Any]:
    """How a step is marked: larger from step to step, and hollow where no NFM is."""
    if step == MLP:
        return {"mfc": "white", "mec": colour, "mew": 1.8, "ms": _SIZES[step]}
    return {"mfc": colour, "mec": "white", "mew": 0.8, "ms": _SIZES[step]}


def _finish(axes: Axes, title: str, places: Sequence[_Place]) -> None:
    axes.set_title(title)
    axes.set_title("↙ better", loc="right", color=GRAY)
    axes.set_xlabel("squared error per dimension (MSE)")
    axes.set_ylabel("KL, nats/token")
    axes.grid()
    for axis, set_scale, values in (
        (axes.xaxis, axes.set_xscale, [at.x.value for at in places]),
        (axes.yaxis, axes.set_yscale, [at.y.value for at in places]),
    ):
        if wide(values):
            set_scale("log")
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            plain_log_ticks(axis)


def _names(styles: dict[str, tuple]) -> list[Line2D]:
    return [
        Line2D([], [], color=colour, marker=marker, ls=line, lw=1.8, ms=9, mec="white", label=name)
        for name, (colour, marker, line) in styles.items()
    ]


def _steps(paths: Sequence[Trained]) -> list[Line2D]:
    """The steps that some path has."""
    there = [step for step in STEPS if any(_places(trained, (step,)) for trained in paths)]
    return [
        Line2D([], [], marker="o", ls="none", label=_WORDS.get(step, step), **_point(step, GRAY))
        for step in there
    ]
