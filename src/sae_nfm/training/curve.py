"""How a stage went: its loss along the way, and what validation said."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

CURVE = "curve.json"
_POINTS = 100  # of the loss


class Curve(Callback):
    """Keeps the mean loss over every hundredth of the steps, and the watched figure of every validation.

    It is part of every checkpoint, so that a resumed run has the curve of an uninterrupted one. Of several
    processes each keeps its own loss.

    Args:
        watched: the figure of a validation.
        num_steps: of the run.
        tokens_per_step: over all processes.
        first_step: that this process begins at, which the trainer does not know before it trains.
    """

    def __init__(self, watched: str, num_steps: int, tokens_per_step: int, first_step: int) -> None:
        self.watched, self.tokens_per_step, self.first_step = watched, tokens_per_step, first_step
        self.every = math.ceil(num_steps / _POINTS)
        self.loss: dict[int, float] = {}
        self.validation: dict[int, float] = {}
        self.summed, self.steps = torch.zeros(()), 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the loss of this step; a GPU waits for it at a hundred of them only."""
        loss: Tensor = outputs["loss"].detach().float()
        self.summed, self.steps = self.summed.to(loss.device) + loss, self.steps + 1
        if trainer.global_step % self.every == 0:
            self.loss[trainer.global_step] = self.summed.item() / self.steps
            self.summed, self.steps = torch.zeros(()), 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the figure, but not that of weights that were put back after the last step."""
        value = float(trainer.callback_metrics[f"validation/{self.watched}"])
        self.validation.setdefault(max(self.first_step, trainer.global_step), value)

    def as_json(self) -> dict[str, Any]:
        """Both as lists of [step, value]."""
        return {
            "watched": self.watched,
            "tokens_per_step": self.tokens_per_step,
            "loss": [list(point) for point in self.loss.items()],
            "validation": [list(point) for point in sorted(self.validation.items())],
        }

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "loss": self.loss,
            "validation": self.validation,
            "summed": self.summed,
            "steps": self.steps,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a checkpoint, which may have been written before the validation of its own step."""
        self.loss, self.summed, self.steps = (state_dict[name] for name in ("loss", "summed", "steps"))
        self.validation = state_dict["validation"] | self.validation


def read_curve(folder: Path) -> dict[str, Any] | None:
    """The curve of a finished stage; None where it has none, as what is solved."""
    path = folder / CURVE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
