"""What watches over a training run."""

import logging
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from torch import Tensor, nn

from sae_nfm.measures.finite import NonFinite
from sae_nfm.training.checkpoints import LAST, Checkpoints

log = logging.getLogger(__name__)


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


def training_callbacks(checkpoints: Path, checkpoint_every: int) -> list[Callback]:
    """Checkpoints for resuming, the guard against a broken loss, and the progress bar."""
    every = max(LOOK_EVERY, checkpoint_every // LOOK_EVERY * LOOK_EVERY)
    return [StopOnNonFinite(LOOK_EVERY, checkpoints), Checkpoints(checkpoints, every), progress_bar()]


def progress_bar() -> Callback:
    """A bar on a terminal; where the output goes to a file, a line now and then."""
    return RichProgressBar() if sys.stderr.isatty() else ProgressLines()


class ProgressLines(ProgressBar):
    """A log line every half minute: step, speed and the latest validation figure."""

    def __init__(self, seconds: float = 30.0) -> None:
        super().__init__()
        self.seconds, self._last, self._steps = seconds, time.monotonic(), 0
        self._enabled = True

    def disable(self) -> None:
        """Say nothing, as in all processes but the first."""
        self._enabled = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Say how far training is."""
        self._steps += 1
        last = trainer.global_step >= trainer.max_steps
        shown = {k: v for k, v in self.get_metrics(trainer, pl_module).items() if k != "v_num"}
        figures = ", ".join(f"{k} {v:.4g}" for k, v in shown.items() if isinstance(v, float))
        self._say(f"step {trainer.global_step} of {trainer.max_steps}", figures, last)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Say how far the evaluation, or what else its module is there for, has come."""
        self._steps += 1
        self._say(f"{getattr(pl_module, 'doing', 'evaluation')}, batch {batch_idx + 1}", "", False)

    def _say(self, where: str, figures: str, now: bool) -> None:
        elapsed = time.monotonic() - self._last
        if self._enabled and (now or elapsed > self.seconds):
            log.info("%s, %.1f per second%s", where, self._steps / elapsed, figures and f", {figures}")
            self._last, self._steps = time.monotonic(), 0
