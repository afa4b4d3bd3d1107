"""One training stage from a fresh or interrupted folder to a finished one: weights, metrics, its curve."""

import json
import logging
import math
import resource
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import nn

from sae_nfm.data.resumed import ResumedModule
from sae_nfm.measures.finite import NonFinite
from sae_nfm.store.files import write_atomically
from sae_nfm.store.ranks import Ranks
from sae_nfm.store.store import discard
from sae_nfm.training.callbacks import KeepBest, training_callbacks
from sae_nfm.training.checkpoints import newest_checkpoint
from sae_nfm.training.curve import CURVE, Curve
from sae_nfm.training.tasks import DictionaryTask
from sae_nfm.training.weights import METRICS, WEIGHTS, save_weights

CHECKPOINTS = "checkpoints"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """How a stage is run, as opposed to what it trains.

    Args:
        trainer: a Lightning `Trainer` that lacks only what follows here.
        logger: frames a stage, given its name, folder and tokens per step, with what its curves are given to.
        gradient_clip: largest gradient norm; 0 clips nothing.
        checkpoint_every: steps between checkpoints.
        validations: how often the run looks at held-out documents.
        callbacks: makes those of the user, anew for every stage; they may watch, and change nothing.
        ranks: the processes that share it.
    """

    trainer: Callable[..., Trainer]
    logger: Callable[[str, Path, int], AbstractContextManager[Any]]
    gradient_clip: float
    checkpoint_every: int
    validations: int
    callbacks: Callable[[], list[Callback]] = list
    ranks: Ranks = field(default_factory=Ranks)


def train(
    stage: str,
    task: DictionaryTask,
    data: ResumedModule,
    trained: nn.Module,
    run: Run,
    folder: Path,
) -> None:
    """Train from the folder's last whole checkpoint, if there is one, and leave weights, metrics and curve.

    The weights are those of the best validation, that of the untrained start and that of the end included.

    Args:
        stage: `sae`, `nfm` or a control's name, for the log.
        task: what is trained, how.
        data: activations.
        trained: the part of the task whose weights are the artifact.
        run: how to run it.
        folder: the unfinished artifact.

    Raises:
        NonFinite: the loss, the weights or the figures are NaN or infinite, or worse than nothing; nothing is
            stored.
    """
    num_steps = task.schedule.num_steps
    last = run.ranks.from_first(lambda: newest_checkpoint(folder / CHECKPOINTS))
    first_step = 0 if last is None else _step_of(last)
    best = KeepBest(trained, task.score, first_step)
    curve = Curve(task.watched, num_steps, data.tokens_per_step, first_step)
    with run.logger(stage, folder, data.tokens_per_step) as logger:
        trainer = _trainer(stage, run, num_steps, logger, folder, [best, curve])
        if last is not None:
            log.info("%s: going on from %s, step %d", stage, last, first_step)
        if first_step % _validation_interval(run, num_steps) == 0:  # a checkpoint comes before its validation
            trainer.validate(task, datamodule=data, ckpt_path=last, weights_only=True, verbose=False)
        started = time.perf_counter()
        trainer.fit(task, datamodule=data, ckpt_path=last, weights_only=True)
        seconds = time.perf_counter() - started
        if trainer.global_step != num_steps:
            raise RuntimeError(
                f"{stage}: the training ended after {trainer.global_step} of {num_steps} steps; "
                "nothing is stored"
            )
        (quality,) = trainer.validate(task, datamodule=data, verbose=False)
        if best.weights and best.step != trainer.global_step:  # none where no validation gave a number
            best.restore()
            (quality,) = trainer.validate(task, datamodule=data, verbose=False)
        _refuse_the_absurd(stage, task, quality[f"validation/{task.watched}"])
        metrics = {name.removeprefix("validation/"): value for name, value in quality.items()}
        metrics["train_tokens"] = num_steps * data.tokens_per_step
        metrics["steps"], metrics["best_step"] = trainer.global_step, best.step
        metrics["processes"] = trainer.world_size  # the sums of several are rounded otherwise
        metrics["tokens_per_s"] = (num_steps - first_step) * data.tokens_per_step / seconds
        metrics["peak_memory_gb"] = _peak_memory(trainer.strategy.root_device) / 1e9
        if trainer.is_global_zero:
            save_weights(trained, folder / WEIGHTS)
            write_atomically(folder / METRICS, json.dumps(metrics, indent=1))
            write_atomically(folder / CURVE, json.dumps(curve.as_json()))
    if run.ranks.is_first:  # a logger may have waited for its network, and been interrupted
        discard(folder / CHECKPOINTS)


def _trainer(
    stage: str, run: Run, num_steps: int, logger: Any, folder: Path, kept: list[Callback]
) -> Trainer:
    own = [*kept, *training_callbacks(stage, folder / CHECKPOINTS, run.checkpoint_every)]
    return run.trainer(
        max_steps=num_steps,
        logger=logger,
        callbacks=[*own, *run.callbacks()],
        gradient_clip_val=run.gradient_clip or None,
        val_check_interval=_validation_interval(run, num_steps),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        inference_mode=False,  # validation runs before training too, and its sums are the same tensors
        log_every_n_steps=min(50, 1 + num_steps // 100),  # a hundred points of a curve, at least
        enable_model_summary=False,
        enable_checkpointing=False,  # Lightning's own, which copies to the final name
        default_root_dir=folder,
    )


def _validation_interval(run: Run, num_steps: int) -> int:
    return max(1, num_steps // run.validations)


def _refuse_the_absurd(stage: str, task: DictionaryTask, figure: float) -> None:
    """Raise where the best that was found explains less than nothing, as sums that overflowed may say."""
    if not (math.isfinite(figure) and figure >= task.least):
        raise NonFinite(
            f"{stage}: its {task.watched} on validation documents is {figure:.4g}, and nothing is stored;\n"
            f"allowed: a finite number, from {task.least:g} on. "
            f"A lower {task.optimizer_setting}.lr or a longer warmup usually mends this"
        )


def _peak_memory(device: torch.device) -> int:
    """Bytes: what a GPU's tensors took at most, or else the whole process, which includes earlier stages."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _step_of(checkpoint: Path) -> int:
    return int(torch.load(checkpoint, weights_only=True, map_location="cpu", mmap=True)["global_step"])
