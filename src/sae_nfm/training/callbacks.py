"""What watches over a training run."""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, TQDMProgressBar


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite."""


class StopOnNonFiniteLoss(Callback):
    """End the run before a checkpoint of broken weights can replace a good one.

    A NaN stays in the weights, so that looking at the loss every few steps, and always before a checkpoint,
    misses none and does not make a GPU wait at every step.

    Args:
        every: steps between two looks; checkpoints come at multiples of it.
        checkpoints: where the last good checkpoint is.
    """

    def __init__(self, every: int, checkpoints: Path) -> None:
        self.every, self.checkpoints = every, checkpoints

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the loss of this step."""
        last = trainer.global_step >= trainer.max_steps
        if (trainer.global_step % self.every and not last) or torch.isfinite(outputs["loss"]):
            return
        raise NonFiniteLoss(
            f"the loss of {type(pl_module).__name__} is {outputs['loss'].item()} at step {trainer.global_step}; "
            f"the last good checkpoint is kept in {self.checkpoints}. A lower learning rate or a longer warm-up "
            "usually mends this"
        )


LOOK_EVERY = 50
"""Steps between two looks at the loss."""


def training_callbacks(checkpoints: Path, checkpoint_every: int) -> list[Callback]:
    """Checkpoints for resuming, the guard against a broken loss, and the progress bar."""
    every = max(LOOK_EVERY, checkpoint_every // LOOK_EVERY * LOOK_EVERY)
    keep_last = ModelCheckpoint(
        checkpoints, filename="last", every_n_train_steps=every, save_top_k=1, enable_version_counter=False
    )
    return [StopOnNonFiniteLoss(LOOK_EVERY, checkpoints), keep_last, progress_bar()]


def progress_bar() -> Callback:
    """A bar for a terminal, or one line now and then where the output goes to a file."""
    import sys

    return RichProgressBar() if sys.stderr.isatty() else TQDMProgressBar(refresh_rate=100)
