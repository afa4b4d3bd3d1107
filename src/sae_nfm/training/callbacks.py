"""What watches over a training run."""

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from torch import Tensor, nn

from sae_nfm import progress
from sae_nfm.measures.finite import NonFinite
from sae_nfm.training.checkpoints import LAST, Checkpoints


class StopOnNonFinite(Callback):
    """End the run before a checkpoint of broken weights can replace a good one.

    A NaN stays in the weights, so that looking at the loss every few steps, and always before a checkpoint,
    misses none and does not make a GPU wait at every step.

    Args:
        every: steps between two looks; checkpoints come at multiples of it.
        checkpoints: where the last good checkpoint is, if there is one.
    """

    def __init__(self, every: int, checkpoints: Path) -> None:
        self.every, self.checkpoints = every, checkpoints

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the loss of this step."""
        last = trainer.global_step >= trainer.max_steps
        if trainer.global_step % self.every and not last:
            return
        trained = (parameter for parameter in pl_module.parameters() if parameter.requires_grad)
        if not torch.isfinite(outputs["loss"]):
            what = f"the loss of {type(pl_module).__name__} is {outputs['loss'].item()}"
        elif not all(bool(parameter.isfinite().all()) for parameter in trained):
            what = f"{type(pl_module).__name__} has weights that are not finite"
        else:
            return
        is_kept = (self.checkpoints / LAST).exists()
        kept = f"the last good checkpoint is kept in {self.checkpoints}" if is_kept else "nothing is stored"
        raise NonFinite(
            f"{what} at step {trainer.global_step};\n{kept}.\n"
            "A lower learning rate or a longer warm-up usually mends this"
        )


class KeepBest(Callback):
    """Keeps the trained weights of the best validation, which need not be the last one.

    The untrained start counts: where training finds nothing, it changes nothing. What is kept is part of
    every checkpoint, so that a resumed run chooses among the same weights as an uninterrupted one.

    Args:
        trained: the weights to keep.
        score: of the figures of a validation; the highest is the best.
        first_step: that this process begins at, which the trainer does not know before it trains.
    """

    def __init__(
        self, trained: nn.Module, score: Callable[[Mapping[str, Tensor]], float], first_step: int
    ) -> None:
        self.trained, self.score, self.first_step = trained, score, first_step
        self.best, self.step = -math.inf, 0
        self.weights: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights if they are the best so far."""
        value = self.score(trainer.callback_metrics)
        if value > self.best:
            self.best, self.step = value, max(self.first_step, trainer.global_step)
            state = self.trained.state_dict()
            self.weights = {name: tensor.detach().clone() for name, tensor in state.items()}

    def restore(self) -> None:
        """Put the best weights back."""
        self.trained.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"best": self.best, "step": self.step, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a checkpoint, which may have been written before the validation of its own step."""
        if state_dict["best"] >= self.best:
            self.best, self.step = state_dict["best"], state_dict["step"]
            self.weights = state_dict["weights"]


LOOK_EVERY = 50
"""Steps between two looks at the loss."""


def training_callbacks(stage: str, checkpoints: Path, checkpoint_every: int) -> list[Callback]:
    """Checkpoints for resuming, the guard against a broken loss, and the line on the terminal."""
    every = rounded(checkpoint_every)
    return [StopOnNonFinite(LOOK_EVERY, checkpoints), Checkpoints(checkpoints, every), TrainingLine(stage)]


def rounded(checkpoint_every: int) -> int:
    """Steps between checkpoints: each comes with a look at the loss."""
    return max(LOOK_EVERY, checkpoint_every // LOOK_EVERY * LOOK_EVERY)


class _Line(ProgressBar):
    """A line of the terminal as Lightning's progress bar; processes but the first show none."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled, self._open = True, ExitStack()
        self._line: progress.Line | None = None

    def disable(self) -> None:
        """Show nothing."""
        self._enabled = False

    def begin(self, name: str, total: int, unit: str, done: int) -> None:
        """Show the line."""
        if self._enabled:
            self._line = self._open.enter_context(progress.line(name, total, unit, done))

    def at(self, done: int, figure: str) -> None:
        """Say how far it is."""
        if self._line is not None:
            self._line.at(done, figure)

    def end(self) -> None:
        """Leave the line as it is."""
        self._line = None
        self._open.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self._line = None
        self._open.__exit__(type(exception), exception, exception.__traceback__)


_SHORT = {"explained_variance": "EV", "residual_explained": "residual EV", "kl": "KL", "ce": "CE"}
"""What figures are called on a line that has to fit into 80 columns; other objectives are the `loss`."""


class TrainingLine(_Line):
    """Tokens of a training stage, and the latest figure of its validation that chooses among weights.

    Args:
        stage: its name.
    """

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.stage, self._figure = stage, ""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the line, from where a resumed run goes on."""
        self._tokens: int = trainer.datamodule.tokens_per_step  # pyright: ignore[reportAttributeAccessIssue]
        done = trainer.global_step * self._tokens
        self.begin(self.stage, trainer.max_steps * self._tokens, "tokens", done)
        self.at(done, self._figure)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the figure here alone, so that no step waits for a GPU."""
        watched = str(getattr(pl_module, "watched", ""))
        value = trainer.callback_metrics.get(f"validation/{watched}")
        if value is not None:
            self._figure = f"{_SHORT.get(watched, 'loss')} {float(value):.4f}"

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step's tokens."""
        self.at(trainer.global_step * self._tokens, self._figure)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the line."""
        self.end()


class Reached(NamedTuple):
    """How far a pass over held-out documents is."""

    done: int
    figure: str


class PassLine(_Line):
    """A pass over held-out documents.

    Args:
        name: of the pass.
        total: what it consists of, over all processes.
        unit: of that.
        reached: how far it is, so far.
    """

    def __init__(self, name: str, total: int, unit: str, reached: Callable[[], Reached]) -> None:
        super().__init__()
        self.name, self.total, self.unit, self.reached = name, total, unit, reached

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the line."""
        self.begin(self.name, self.total, self.unit, self.reached().done)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Say how far it is."""
        done, figure = self.reached()
        self.at(min(self.total, done * trainer.world_size), figure)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the line."""
        self.end()
