"""One training stage from a fresh or interrupted folder to a finished one: weights and metrics."""

import json
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from safetensors.torch import load_file, save_file
from torch import nn

from sae_nfm.data.activations import ActivationModule
from sae_nfm.store import discard, write_atomically
from sae_nfm.training.callbacks import KeepBest, training_callbacks
from sae_nfm.training.tasks import DictionaryTask

WEIGHTS, METRICS, CHECKPOINTS = "weights.safetensors", "metrics.json", "checkpoints"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """How a stage is run, as opposed to what it trains.

    Args:
        trainer: a Lightning `Trainer` that lacks only what follows here.
        logger: frames a stage, given its name and folder, with what its curves are given to.
        gradient_clip: largest gradient norm; 0 clips nothing.
        checkpoint_every: steps between checkpoints.
        validations: how often the run looks at held-out documents.
    """

    trainer: Callable[..., Trainer]
    logger: Callable[[str, Path], AbstractContextManager[Any]]
    gradient_clip: float
    checkpoint_every: int
    validations: int


def train(
    stage: str, task: DictionaryTask, data: ActivationModule, trained: nn.Module, run: Run, folder: Path
) -> None:
    """Train from the folder's last checkpoint, if there is one, and leave weights and metrics in the folder.

    The weights are those of the best validation, that of the untrained start and that of the end included.

    Args:
        stage: `sae`, `nfm` or a control's name, for the log.
        task: what is trained, how.
        data: activations.
        trained: the part of the task whose weights are the artifact.
        run: how to run it.
        folder: the unfinished artifact.
    """
    num_steps = task.schedule.num_steps
    last = folder / CHECKPOINTS / "last.ckpt"
    first_step = _step_of(last)
    best = KeepBest(trained, f"validation/{task.watched}", first_step)
    with run.logger(stage, folder) as logger:
        trainer = _trainer(run, num_steps, logger, folder, best)
        if last.exists():
            log.info("%s: going on from %s", stage, last)
        if first_step % _validation_interval(run, num_steps) == 0:  # a checkpoint comes before its validation
            at = last if last.exists() else None
            trainer.validate(task, datamodule=data, ckpt_path=at, weights_only=True, verbose=False)
        started = time.perf_counter()
        trainer.fit(task, datamodule=data, ckpt_path=last if last.exists() else None, weights_only=True)
        seconds = time.perf_counter() - started
        if trainer.global_step != num_steps:
            raise RuntimeError(
                f"{stage}: the training ended after {trainer.global_step} of {num_steps} steps; "
                "nothing is stored"
            )
        (quality,) = trainer.validate(task, datamodule=data, verbose=False)
        if best.step != trainer.global_step:
            best.restore()
            (quality,) = trainer.validate(task, datamodule=data, verbose=False)
        metrics = {name.removeprefix("validation/"): value for name, value in quality.items()}
        metrics["train_tokens"] = num_steps * data.pool.batch
        metrics["steps"], metrics["best_step"] = trainer.global_step, best.step
        metrics["tokens_per_s"] = (num_steps - first_step) * data.pool.batch / seconds
        if trainer.is_global_zero:
            save_weights(trained, folder / WEIGHTS)
            write_atomically(folder / METRICS, json.dumps(metrics, indent=1))
            discard(folder / CHECKPOINTS)


def _trainer(run: Run, num_steps: int, logger: Any, folder: Path, best: KeepBest) -> Trainer:
    return run.trainer(
        max_steps=num_steps,
        logger=logger,
        callbacks=[best, *training_callbacks(folder / CHECKPOINTS, run.checkpoint_every)],
        gradient_clip_val=run.gradient_clip or None,
        val_check_interval=_validation_interval(run, num_steps),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        inference_mode=False,  # validation runs before training too, and its sums are the same tensors
        log_every_n_steps=min(50, 1 + num_steps // 100),  # a hundred points of a curve, at least
        enable_model_summary=False,
        default_root_dir=folder,
    )


def _validation_interval(run: Run, num_steps: int) -> int:
    return max(1, num_steps // run.validations)


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's state as safetensors."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    save_file(state, path)


def load_weights(module: nn.Module, path: Path) -> None:
    """Read a module's state from safetensors, into float32 or wider: what is stored is what is evaluated."""
    state = load_file(path)
    wide = any(tensor.dtype == torch.float64 for tensor in state.values())
    module.to(torch.float64 if wide else torch.float32).load_state_dict(state)


def read_metrics(folder: Path) -> dict[str, float]:
    """The metrics of a finished stage."""
    return json.loads((folder / METRICS).read_text())


def _step_of(checkpoint: Path) -> int:
    if not checkpoint.exists():
        return 0
    return int(torch.load(checkpoint, weights_only=True, map_location="cpu", mmap=True)["global_step"])
