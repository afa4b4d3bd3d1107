"""What `logger=` chooses between: nothing beside the run folder, CSV files, or Weights & Biases."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import CSVLogger, Logger


class Tracker:
    """Keeps nothing beside what every study writes; the others say what they keep.

    Args:
        folder: the study's run folder.
        choices: the option taken for every config group.
        settings: the resolved configuration.
    """

    def __init__(self, folder: Path, choices: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self.folder, self.choices, self.settings = folder, choices, settings

    @contextmanager
    def stage(self, name: str, artifact: Path) -> Iterator[Logger | Literal[False]]:
        """Frame a stage's training, in every process of the study.

        Args:
            name: `sae`, `nfm`, …
            artifact: folder of what is trained, not finished yet; on success it holds the weights at the end.

        Yields:
            What Lightning gives the curves to; False for nothing.
        """
        yield False

    def result(self, result: Mapping[str, Any]) -> None:
        """Take the result, once it is on disk with its figures; in the first process only."""


class CSVFiles(Tracker):
    """Writes `<folder>/logs/<stage>/metrics.csv`."""

    @contextmanager
    def stage(self, name: str, artifact: Path) -> Iterator[Logger | Literal[False]]:
        """Give the stage a CSV file."""
        yield CSVLogger(self.folder, name="logs", version=name)
