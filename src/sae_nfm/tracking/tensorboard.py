"""A study in TensorBoard."""

import importlib.util
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from sae_nfm.settings.values import NotAllowed
from sae_nfm.tracking.trackers import LOGS, Tracker
from sae_nfm.tracking.wandb_names import summary


class TensorBoard(Tracker):
    """Writes `<folder>/logs/<stage>/events…`, with the figures of the result under `evaluation`.

    Args:
        folder: the study's run folder.
        choices: the option taken for every config group.
        settings: the resolved configuration.
        given: keys that the command gives.

    Raises:
        NotAllowed: the package `tensorboard` is not installed.
    """

    def __init__(
        self,
        folder: Path,
        choices: Mapping[str, Any],
        settings: Mapping[str, Any],
        given: Collection[str] = (),
    ) -> None:
        super().__init__(folder, choices, settings, given)
        if importlib.util.find_spec("tensorboard") is None:
            allowed = "csv, none, wandb, wandb_offline, or this after `pip install 'sae-nfm[tensorboard]'`"
            raise NotAllowed("logger", "tensorboard", allowed, "the package tensorboard is not installed")

    @contextmanager
    def stage(self, name: str, artifact: Path, tokens_per_step: int) -> Iterator[Logger]:
        """Give the stage a file of events, over training steps."""
        yield self._logger(name)

    def result(self, result: Mapping[str, Any]) -> None:
        """Write the figures that W&B would show, under the same names."""
        logger = self._logger("evaluation")
        logger.log_metrics(summary(result), step=0)
        logger.finalize("success")

    def _logger(self, name: str) -> TensorBoardLogger:
        return TensorBoardLogger(self.folder, name=LOGS, version=name)
