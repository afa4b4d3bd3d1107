"""The launcher's side of `hydra/launcher=together`: which jobs share a process, and what became of them."""

import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from sae_nfm.launch.job import config_dirs, finished, number, own_overrides, reason_of, waited_for
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
_GROUP, _ROOM = "SAE_NFM_JOBS", "SAE_NFM_ROOM"


class Member(NamedTuple):
    """A job as it is composed for a sweep."""

    job: Job
    cfg: DictConfig
    hydra: HydraConf

    @property
    def log(self) -> Path:
        """What it logs."""
        return self.job.folder / f"{self.hydra.job.name}.log"

    def shared(self) -> str:
        """What it has to have in common with others to share a process with them."""
        return json.dumps({name: plain(self.cfg[name]) for name in _SHARED}, sort_keys=True)


def launch(
    jobs: Sequence[tuple[int, list[str]]],
    config: DictConfig,
    context: HydraContext,
    gigabytes: float | None,
) -> list[JobReturn]:
    """Run the jobs of a sweep, those that share a model, a text and a site in one process.

    Args:
        jobs: number and overrides of each.
        config: of the sweep.
        context: that composes a job's configuration.
        gigabytes: that jobs of a process may take beside the model at the same time; None is what is free.

    Returns:
        As Hydra wants it, with the number that `optimize` names.
    """
    setup_globals()
    raise_when_terminated()
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    sweep = Path(config.hydra.sweep.dir)
    os.environ.setdefault("WANDB_RUN_GROUP", sweep.name)  # W&B shows a sweep as a group
    members = [_member(number, overrides, config, context) for number, overrides in jobs]
    to_run = []
    for member in members:
        outcome = finished(member.job, member.cfg)
        member.job.record(outcome or Outcome(UNFINISHED))
        if outcome is None:
            to_run.append(member)
    for index, group in enumerate(_groups(to_run)):
        _run(group, sweep / f"together_{index}.log", gigabytes)
    return [_returned(member) for member in members]


def _member(number: int, overrides: list[str], config: DictConfig, context: HydraContext) -> Member:
    cfg = context.config_loader.load_sweep_config(config, overrides)
    with open_dict(cfg):
        cfg.hydra.job.id, cfg.hydra.job.num = str(number), number
        HydraConfig.instance().set_config(cfg)
        folder = Path(str(cfg.hydra.sweep.dir), str(cfg.hydra.sweep.subdir)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        hydra = cfg.hydra
        OmegaConf.set_readonly(hydra, False)
        hydra.runtime.output_dir = str(folder)
        del cfg["hydra"]
    return Member(Job(folder), cfg, hydra)


def _groups(members: list[Member]) -> list[list[Member]]:
    """Those that can share a process, in the order in which they came."""
    groups: dict[str, list[Member]] = {}
    for member in members:
        groups.setdefault(member.shared(), []).append(member)
    return list(groups.values())


def _run(group: list[Member], output: Path, gigabytes: float | None) -> None:
    """Run the jobs in a process; one that dies leaves those that it has not finished as failed."""
    log.info("%d jobs in one process, which prints to %s", len(group), output)
    begins = [_size(member.job.output) for member in group]
    described = [{"log": str(member.log), "overrides": _overrides(member)} for member in group]
    environment = {_GROUP: json.dumps(described)}
    if gigabytes is not None:
        environment[_ROOM] = str(gigabytes)
    started = time.perf_counter()
    with output.open("ab") as file:
        code = waited_for([sys.executable, "-m", "sae_nfm.launch"], group[0].job, file, environment)
    seconds = time.perf_counter() - started
    for member, begin in zip(group, begins, strict=True):
        if member.job.outcome().state == UNFINISHED:
            why = reason_of(code, member.job.output if code == 0 else output, begin if code == 0 else 0)
            member.job.record(Outcome(FAILED, why, seconds))
        log.info("%s: %s", member.job.folder.name, member.job.outcome().state)


def _overrides(member: Member) -> list[str]:
    """The job's own overrides, with the user's folders of configuration among those that are searched."""
    folders = ",".join(f"file://{folder}" for folder in config_dirs(member.hydra))
    searched = [f"hydra.searchpath=[{folders}]"] if folders else []
    return [*own_overrides(member.hydra, member.job), *searched]


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


def jobs_of_this_process() -> list[dict[str, Any]]:
    """Log file and overrides of the jobs that the launcher gave to this process."""
    return json.loads(os.environ[_GROUP])


def gigabytes_of_this_process() -> float | None:
    """What the launcher lets its jobs take, where it does."""
    asked = os.environ.get(_ROOM)
    return None if asked is None else float(asked)
