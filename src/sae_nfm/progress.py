"""What a user sees of work that takes time: a line a stage on a terminal, elsewhere one now and then."""

import logging
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

log = logging.getLogger(__name__)
EVERY = 30.0
"""Seconds between two log lines of the same work."""
_DETAILS = ("sae_nfm.data", "sae_nfm.recipes", "sae_nfm.stages", "sae_nfm.launch.study")
_NAME, _COUNT = 15, 14  # columns at least, so that the bars of stages align
_LONGEST = 22  # columns of a name; a longer one goes on in a second line


class Line(Protocol):
    """What is shown of one piece of work."""

    def at(self, done: int, figure: str = "") -> None:
        """Say how far it has come.

        Args:
            done: of the total, what was there at the start included.
            figure: what matters about it, such as `KL 0.0776`; empty keeps what is shown.
        """
        ...


@dataclass
class _Place:
    """Where in the study we are."""

    text: str = ""
    shown: bool = False


_IS_SILENT = False
_PLACE: ContextVar[_Place | None] = ContextVar("place", default=None)
"""Of a study: several may share a process."""


@contextmanager
def stage(number: int, count: int, name: str) -> Iterator[None]:
    """Number what is shown within; where nothing is, as all of it is there already, that is said."""
    place = _Place(f"{number}/{count}")
    before = _PLACE.set(place)
    try:
        yield
    finally:
        _PLACE.reset(before)
    if not place.shown and not _IS_SILENT:
        _say_nothing(place.text, name)


def silence() -> None:
    """Show nothing in this process: another of the same study does."""
    global _IS_SILENT
    _IS_SILENT = True


@contextmanager
def line(name: str, total: int | None, unit: str = "tokens", done: int = 0) -> Iterator[Line]:
    """Show how far some work has come, from now to the end of the context.

    Args:
        name: of the work.
        total: of the units that it consists of; None where nobody knows.
        unit: in the plural.
        done: units that are there already.
    """
    place = _PLACE.get() or _Place()
    place.shown = True
    console = Console(stderr=True)
    if _IS_SILENT:
        made = _Nothing()
    elif console.is_terminal:
        made = _Bar(console, place.text, name, total, unit, done)
    else:
        made = _Logged(f"{place.text} {name}".strip(), total, unit, done)
    with made:
        yield made


def _say_nothing(place: str, name: str) -> None:
    console = Console(stderr=True)
    if console.is_terminal:
        console.print(f"{_name(place, name):<{_NAME}} nothing to make", highlight=False)
    log.info("%s %s: nothing to make", place, name)


class _Nothing(nullcontext):
    """In a process that another speaks for."""

    def __enter__(self) -> "_Nothing":
        return self

    def at(self, done: int, figure: str = "") -> None:
        pass


class _Bar:
    """On a terminal; a log file has its lines all the same."""

    def __init__(
        self, console: Console, place: str, name: str, total: int | None, unit: str, done: int
    ) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", table_column=Column(min_width=_NAME, no_wrap=True)),
            BarColumn(bar_width=None),
            _Done(table_column=Column(min_width=_COUNT, no_wrap=True, justify="right")),
            _Rate(table_column=Column(no_wrap=True, justify="right")),
            TextColumn("{task.fields[figure]}", style="bold"),
            TimeRemainingColumn(
                compact=True, elapsed_when_finished=True, table_column=Column(no_wrap=True, justify="right")
            ),
            console=console,
            expand=True,
        )
        self._figure = ""
        self._logged = _Logged(f"{place} {name}".strip(), total, unit, done)
        fields = {"figure": "", "unit": unit, "first": done}
        self._task = self._progress.add_task(_name(place, name), total=total, completed=done, **fields)

    def at(self, done: int, figure: str = "") -> None:
        self._figure = figure or self._figure
        self._progress.update(self._task, completed=done, figure=self._figure)
        self._logged.at(done, figure)

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, kind: type | None, *more: Any) -> None:
        if kind is None:
            self._progress.update(self._task, total=self._progress.tasks[0].completed)
        self._progress.stop()
        self._logged.__exit__(kind, *more)


class _Done(ProgressColumn):
    """How much of how much."""

    def render(self, task: Task) -> Text:
        return Text(f"{_of(task.completed, task.total)} {task.fields['unit']}")


class _Rate(ProgressColumn):
    """Units a second, over the last half minute and, at the end, over all."""

    def render(self, task: Task) -> Text:
        speed = task.speed
        if task.finished_time:
            speed = (task.completed - task.fields["first"]) / task.finished_time
        return Text("" if speed is None else f"{short(speed)}/s", style="dim")


class _Logged:
    """In a pipe or a file."""

    def __init__(self, name: str, total: int | None, unit: str, done: int) -> None:
        self._name, self._total, self._unit = name, total, unit
        self._first = self._done = done
        self._figure = ""
        self._began = self._told = time.monotonic()

    def at(self, done: int, figure: str = "") -> None:
        self._done, self._figure = done, figure or self._figure
        if time.monotonic() - self._told >= EVERY:
            self._tell(f"{_of(done, self._total)} {self._unit}", self._left())

    def __enter__(self) -> "_Logged":
        return self

    def __exit__(self, kind: type | None, *more: Any) -> None:
        if kind is None:
            took = _duration(time.monotonic() - self._began)
            self._tell(f"{short(self._done)} {self._unit} in {took}", "")

    def _tell(self, how_far: str, left: str) -> None:
        self._told = time.monotonic()
        parts = (how_far, f"{short(self._speed())}/s", self._figure, left)
        log.info("%s: %s", self._name, ", ".join(part for part in parts if part))

    def _speed(self) -> float:
        return (self._done - self._first) / max(1e-9, time.monotonic() - self._began)

    def _left(self) -> str:
        speed = self._speed()
        return f"{_duration((self._total - self._done) / speed)} left" if self._total and speed else ""


class Terminal(logging.StreamHandler):
    """Shows log records above the line of what is going on, without the details that a log file has."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(lambda record: record.levelno > logging.INFO or not record.name.startswith(_DETAILS))

    def emit(self, record: logging.LogRecord) -> None:
        """Write to what `sys.stderr` is now: while a line is drawn, it is what draws it."""
        self.stream = sys.stderr
        if record.name != __name__ or not Console(stderr=True).is_terminal:
            super().emit(record)


def _name(place: str, name: str) -> str:
    """Both, in lines that leave the figures their room in 80 columns."""
    lines = re.findall(rf".{{1,{_LONGEST - 1}}}(?:_|$)|.{{1,{_LONGEST}}}", name)
    return f"{place:<3} " + "\n    ".join(lines)


def short(number: float) -> str:
    """A number in three digits: `512k`, `7.97M`."""
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            return f"{number / size:.3g}{suffix}"
    return f"{number:.3g}"


def _of(done: float, total: float | None) -> str:
    return short(done) if total is None or done == total else f"{short(done)}/{short(total)}"


def _duration(seconds: float) -> str:
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"
