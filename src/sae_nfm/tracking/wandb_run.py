"""One run of Weights & Biases that cannot do a study any harm."""

import logging
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import wandb
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

log = logging.getLogger(__name__)
_X_AXIS, _STEP = "tokens", "trainer/global_step"
_GRACE = 20.0  # seconds


class WandbRun:
    """A W&B run whose errors are told in a line, after which it takes nothing more.

    Args:
        run: the run; None where it could not be opened, and in processes other than the first.
    """

    num_open = 0
    """In this process: studies that share it have runs of their own."""

    def __init__(self, run: wandb.Run | None) -> None:
        self._run, self._broken = run, False
        WandbRun.num_open += run is not None
        self._folder = run and shlex.quote(run.settings.sync_dir)

    def draw_over_tokens(self) -> None:
        """Make trained tokens the x-axis of all curves, also where a resumed run repeats some."""

        def define(run: wandb.Run) -> None:
            run.define_metric(_X_AXIS)
            run.define_metric("*", step_metric=_X_AXIS)

        self._attempt("setting up", define)

    def add_points(self, values: Mapping[str, float], step: int | None, tokens: int | None) -> None:
        """Go on with every curve."""
        self._attempt("logging", lambda run: run.log({**values, _STEP: step, _X_AXIS: tokens}))

    def show(
        self,
        summary: Mapping[str, float],
        columns: Sequence[str],
        rows: list[Any],
        figure: Path,
        report: Path,
    ) -> None:
        """Log the figures, whose last values are the summary, a table, a picture and the report's page."""

        def send(run: wandb.Run) -> None:
            shown: dict[str, Any] = {"conditions": wandb.Table(columns=list(columns), data=rows)}
            if figure.exists():
                shown[f"figures/{figure.stem}"] = wandb.Image(str(figure))
            if report.exists():  # a full disk may have left it out
                shown["report"] = wandb.Html(str(report))
            run.log({**summary, **shown})

        self._attempt("sending the result", send)

    def keep(self, kind: str, name: str, path: Path) -> None:
        """Upload a file as an artifact."""

        def upload(run: wandb.Run) -> None:
            artifact = wandb.Artifact(name, type=kind)
            artifact.add_file(str(path))
            run.log_artifact(artifact)

        self._attempt("sending an artifact", upload)

    def finish(self, exit_code: int = 0) -> None:
        """Hand over what is left, and close the run; with the last one ends the process that W&B has."""
        if self._run is None:
            return
        self._broken = False
        self._attempt("finishing", lambda run: run.finish(exit_code=exit_code))
        self._run = None
        WandbRun.num_open -= 1
        end_service()

    def _attempt(self, what: str, act: Callable[[wandb.Run], Any]) -> None:
        if self._run is None or self._broken:
            return
        try:
            act(self._run)
        except Exception as error:  # whatever it is, the run folder has all that matters
            reason, later = f"{type(error).__name__}: {error}", f"wandb sync --include-online {self._folder}"
            log.warning("W&B: %s failed (%s); to send what it has later: %s", what, reason, later)
            self._broken = True


def end_service() -> None:
    """End W&B's own process, unless a run is open; the next starts one, which reads the environment again.

    Without a server that process may wait for hours, and a study that ends would wait for it: it is given up
    then, and ends itself after the study.
    """
    if WandbRun.num_open:
        return
    thread = Thread(target=_tear_down, daemon=True)  # a thread also because it calls `sys.exit` after a crash
    thread.start()
    thread.join(_GRACE)


def _tear_down() -> None:
    with suppress(Exception):
        wandb.teardown()


class Curves(Logger):
    """Lightning's way to a W&B run.

    Args:
        run: the run.
        tokens_per_step: over all processes.
    """

    def __init__(self, run: WandbRun, tokens_per_step: int) -> None:
        super().__init__()
        self._run, self._tokens_per_step = run, tokens_per_step

    @property
    def name(self) -> None:
        """None: Lightning would name folders by it."""

    @property
    def version(self) -> None:
        """None: Lightning would name folders by it."""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run has the study's configuration."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Pass on a point of every curve."""
        tokens = None if step is None else step * self._tokens_per_step
        self._run.add_points(metrics, step, tokens)
