"""The jobs of a sweep on disk: each a folder, with `job.json` saying what became of it."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sae_nfm.store.files import write_atomically

UNFINISHED, DONE, REUSED, FAILED = "not finished", "done", "already there", "failed"
RECORD, RESULT, PLAN, REPORT = "job.json", "result.json", "plan.json", "report.html"
_HOW_NOT_WHAT = {"trainer", "logger", "artifacts", "optimize", "name", "plan", "profile", "callbacks"}
_FILLED_IN = ("layer", "hook", "attribution")
"""Where they are null, a result may have what a published SAE's files say, and what was attributed since."""


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    state: str
    reason: str = ""
    """Why it failed, in a line."""
    seconds: float = 0.0

    @property
    def succeeded(self) -> bool:
        """Whether the job's result is there."""
        return self.state in (DONE, REUSED)


class Job:
    """A job's folder.

    Args:
        folder: where its study writes.
        rank: of this process among those that share the job; only the first records.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.folder, self.rank = folder, rank
        self._failure: str | None = None

    @property
    def output(self) -> Path:
        """What its process prints."""
        return self.folder / ("output.log" if self.rank == 0 else f"output_{self.rank}.log")

    def result(self) -> dict[str, Any] | None:
        """The study's result, if it is there and whole."""
        return self.left(RESULT)

    def left(self, name: str) -> dict[str, Any] | None:
        """What the study wrote under a name, if it is there and whole."""
        try:
            return json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None

    def record(self, outcome: Outcome) -> None:
        """Write what became of the job, for the table at the end of the sweep."""
        if self.rank == 0:
            write_atomically(self.folder / RECORD, json.dumps(asdict(outcome), indent=1))

    def outcome(self) -> Outcome:
        """What was recorded."""
        return Outcome(**json.loads((self.folder / RECORD).read_text()))

    def fail(self, reason: str) -> None:
        """Say why this rank failed, unless another rank failed before it."""
        self._failure = self.failure() or reason
        if self._told is not None:
            write_atomically(self._told, self._failure)

    def failure(self) -> str | None:
        """Why a rank failed, if one did."""
        if self._told is not None and self._told.exists():
            return self._told.read_text()
        return self._failure

    @cached_property
    def _told(self) -> Path | None:
        """Where ranks that SLURM started as tasks tell each other; not the file of an earlier attempt."""
        if int(os.environ.get("SLURM_NTASKS", 1)) == 1:
            return None
        attempt = [os.environ.get(f"SLURM_{name}", "0") for name in ("JOB_ID", "STEP_ID", "RESTART_COUNT")]
        return self.folder / f".failed-{'-'.join(attempt)}"


def outcomes(sweep: Path) -> Iterator[tuple[str, Outcome]]:
    """The jobs below a sweep's folder by their names, and what became of them."""
    for record in sorted(sweep.rglob(RECORD)):
        yield str(record.parent.relative_to(sweep)), Outcome(**json.loads(record.read_text()))


def same_study(found: dict[str, Any], asked: dict[str, Any]) -> bool:
    """Whether numbers are those that are asked for, be it on other devices or at other paths.

    Args:
        found: settings of a result.
        asked: settings as they are composed.
    """
    filled_in = {name: found.get(name) for name in _FILLED_IN if name in asked and asked[name] is None}
    return _what(found) == _what(asked | filled_in)


def _what(settings: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in settings.items() if name not in _HOW_NOT_WHAT}
    return kept | {"precision": settings["trainer"]["precision"]}
