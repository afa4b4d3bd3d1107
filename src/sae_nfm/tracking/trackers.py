"""What `logger=` chooses between: nothing beside the run folder, CSV files, TensorBoard, or W&B."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities import rank_zero_only

LOGS = "logs"
"""Folder of the stages' curves in a run folder."""


class Tracker:
    """Keeps nothing beside what every study writes; the others say what they keep.

    Args:
        folder: the study's run folder.
        choices: the option taken for every config group.
        settings: the resolved configuration.
        given: keys that the command gives.
    """

    def __init__(
        self,
        folder: Path,
        choices: Mapping[str, Any],
        settings: Mapping[str, Any],
        given: Collection[str] = (),
    ) -> None:
        self.folder, self.choices, self.settings, self.given = folder, choices, settings, given

    @contextmanager
    def stage(self, name: str, artifact: Path, tokens_per_step: int) -> Iterator[Logger | Literal[False]]:
        """Frame a stage's training, in every process of the study.

        Args:
            name: `sae`, `nfm`, …
            artifact: folder of what is trained, not finished yet; on success it holds the weights at the end.
            tokens_per_step: over all processes.

        Yields:
            What Lightning gives the curves to; False for nothing.
        """
        yield False

    def result(self, result: Mapping[str, Any]) -> None:
        """Take the result, once it is on disk with its figures; in the first process only."""


class CSVFiles(Tracker):
    """Writes `<folder>/logs/<stage>/metrics.csv`."""

    @contextmanager
    def stage(self, name: str, artifact: Path, tokens_per_step: int) -> Iterator[Logger]:
        """Give the stage a CSV file; that of a run that was interrupted is kept beside it."""
        _put_aside(self.folder / LOGS / name / "metrics.csv")
        yield CSVLogger(self.folder, name=LOGS, version=name)


@rank_zero_only
def _put_aside(path: Path) -> None:
    """Lightning's logger deletes the file that it finds."""
    if path.exists():
        number = next(n for n in count(1) if not path.with_suffix(f".{n}.csv").exists())
        path.rename(path.with_suffix(f".{number}.csv"))
