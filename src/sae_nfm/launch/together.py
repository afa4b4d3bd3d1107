"""The launcher's side of `hydra/launcher=together`: which jobs share a process, and what became of them."""

import json
import logging
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from sae_nfm.launch.composed import origin, parted
from sae_nfm.launch.job import child_process, end, finished, number, reason_of, waited_for
from sae_nfm.launch.jobs import FAILED, UNFINISHED, Job, Outcome
from sae_nfm.settings.schema import plain
from sae_nfm.store.processes import raise_when_terminated

log = logging.getLogger(__name__)
_SHARED = (
    "lm",
    "corpus",
    "context",
    "splits",
    "max_tokens",
    "layer",
    "hook",
    "lm_batch",
    "trainer",
    "matmul_precision",
    "artifacts",
)


class Given(NamedTuple):
    """A job as its process is given it."""

    job: Job
    cfg: DictConfig
    origin: dict[str, Any]
    log: Path
    """What it logs."""


class Message(NamedTuple):
    """What a process of several jobs reads from the launcher."""

    jobs: list[Given]
    gigabytes: float | None
    """That they may take beside the model at the same time; None is what is free."""


class Member(NamedTuple):
    """A job as it is composed for a sweep."""

    job: Job
    cfg: DictConfig
    hydra: HydraConf

    def shared(self) -> str:
        """What it has to have in common with others to share a process with them."""
        return json.dumps({name: plain(self.cfg[name]) for name in _SHARED}, sort_keys=True)

    def given(self) -> Given:
        """What its process is given of it."""
        return Given(self.job, self.cfg, origin(self.hydra), self.job.folder / f"{self.hydra.job.name}.log")


class Processes:
    """Runs the jobs of a sweep, those that share a model, a text and a site in one process.

    The first process starts at once: it imports what studies need while Hydra composes them.

    Args:
        config: of the sweep.
        context: that composes a job's configuration.
        gigabytes: that jobs of a process may take beside the model at the same time; None is what is free.
    """

    def __init__(self, config: DictConfig, context: HydraContext, gigabytes: float | None) -> None:
        self._config, self._context, self._gigabytes = config, context, gigabytes
        self._sweep = Path(config.hydra.sweep.dir)
        os.environ.setdefault("WANDB_RUN_GROUP", self._sweep.name)  # W&B shows a sweep as a group
        self._number = self._begin = 0
        self._ready: subprocess.Popen[bytes] | None = self._started()

    def launch(self, jobs: Sequence[tuple[int, list[str]]]) -> list[JobReturn]:
        """Run jobs to their end.

        Args:
            jobs: number and overrides of each.

        Returns:
            As Hydra wants it, with the number that `optimize` names.
        """
        setup_globals()
        raise_when_terminated()
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        try:
            members = [self._member(number, overrides) for number, overrides in jobs]
            to_run = []
            for member in members:
                outcome = finished(member.job, member.cfg)
                member.job.record(outcome or Outcome(UNFINISHED))
                if outcome is None:
                    to_run.append(member)
            for group in _groups(to_run):
                self._run(group)
        finally:
            if self._ready is not None:
                end(self._ready)
                self._ready = None
        return [_returned(member) for member in members]

    def _member(self, number: int, overrides: list[str]) -> Member:
        cfg = self._context.config_loader.load_sweep_config(self._config, overrides)
        OmegaConf.set_struct(cfg, False)
        cfg.hydra.job.id, cfg.hydra.job.num = str(number), number
        HydraConfig.instance().set_config(cfg)
        folder = Path(str(cfg.hydra.sweep.dir), str(cfg.hydra.sweep.subdir)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        cfg, hydra = parted(cfg)
        hydra.runtime.output_dir = str(folder)
        return Member(Job(folder), cfg, hydra)

    @property
    def _output(self) -> Path:
        """What the present process prints."""
        return self._sweep / f"together_{self._number}.log"

    def _started(self) -> subprocess.Popen[bytes]:
        """A process that waits for jobs."""
        self._sweep.mkdir(parents=True, exist_ok=True)
        with self._output.open("ab") as output:
            self._begin = output.tell()  # behind what an earlier sweep in this folder printed
            return child_process([sys.executable, "-m", "sae_nfm.launch"], output, subprocess.PIPE)

    def _run(self, group: list[Member]) -> None:
        """Run the jobs in a process; one that dies leaves those that it has not finished as failed."""
        log.info("%d jobs in one process, which prints to %s", len(group), self._output)
        begins = [_size(member.job.output) for member in group]
        started = time.perf_counter()
        child, self._ready = self._ready or self._started(), None
        try:
            _give(child, Message([member.given() for member in group], self._gigabytes))
        finally:
            code = waited_for(child, group[0].job)
        seconds = time.perf_counter() - started
        for member, begin in zip(group, begins, strict=True):
            if member.job.outcome().state == UNFINISHED:
                printed, begin = (member.job.output, begin) if code == 0 else (self._output, self._begin)
                member.job.record(Outcome(FAILED, reason_of(code, printed, begin), seconds))
            log.info("%s: %s", member.job.folder.name, member.job.outcome().state)
        self._number += 1


def _groups(members: list[Member]) -> list[list[Member]]:
    """Those that can share a process, in the order in which they came."""
    groups: dict[str, list[Member]] = {}
    for member in members:
        groups.setdefault(member.shared(), []).append(member)
    return list(groups.values())


def _give(child: subprocess.Popen[bytes], message: Message) -> None:
    """Hand a process its jobs; one that has died already has said why where it prints."""
    assert child.stdin is not None
    with suppress(BrokenPipeError), child.stdin:
        pickle.dump(message, child.stdin)


def given_to_this_process() -> Message | None:
    """What the launcher gives to this process; None where it has nothing for it."""
    try:
        return pickle.load(sys.stdin.buffer)
    except EOFError:
        return None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _returned(member: Member) -> JobReturn:
    value = None
    if member.job.outcome().succeeded:
        value = number(member.job.result(), member.cfg.optimize)
    returned = JobReturn(
        overrides=[*map(str, OmegaConf.to_container(member.hydra.overrides.task) or [])],
        cfg=member.cfg,
        hydra_cfg=OmegaConf.create({"hydra": member.hydra}),
        working_dir=str(member.job.folder),
        task_name=member.hydra.job.name,
        status=JobStatus.COMPLETED,
    )
    returned.return_value = value
    return returned
