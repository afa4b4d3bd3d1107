"""The jobs of a process before they run: composed, checked, and put into groups that its memory holds."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from omegaconf import OmegaConf

from sae_nfm.launch.composed import check_one_process
from sae_nfm.launch.jobs import Job
from sae_nfm.launch.study import Study
from sae_nfm.launch.together import Given
from sae_nfm.models.least_squares import free_bytes
from sae_nfm.planning.costs import Memory
from sae_nfm.planning.plan import memory_of
from sae_nfm.planning.workshop import PlannedWorkshop
from sae_nfm.store.company import Company

_GB = 1e9
_SHARE = 0.9
"""Of the memory that is free, which jobs may take."""


class Prepared(NamedTuple):
    """A job that can run."""

    job: Job
    log: Path
    """What it logs."""
    study: Study
    memory: Memory

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.study.workshop.activations.lm.device


def prepared(given: Given, company: Company) -> Prepared:
    """A job that can run, of what the launcher gives.

    Raises:
        ValueError: it cannot run; a `NotAllowed` where a setting is to blame.
    """
    OmegaConf.set_struct(given.cfg, True)
    check_one_process(given.cfg.trainer, "studies that share a process have one device")
    study = Study(given.cfg, given.job.folder, given.origin, company)
    memory = memory_of(study.stages, PlannedWorkshop.of(study.workshop))
    return Prepared(given.job, given.log, study, memory)


def taken(group: Sequence[Prepared]) -> int:
    """Bytes that jobs take at the same time, beside the model.

    Jobs of a seed read the same activations, and one of all jobs computes at a time.
    """
    most = Memory.most(each.memory for each in group)
    seeds = len({each.study.cfg.seed for each in group})
    return most.read * seeds + most.computing + sum(each.memory.kept for each in group)


def room(device: torch.device, gigabytes: float | None) -> float:
    """Bytes that jobs may take beside the model: what is asked for, or most of what is free."""
    return _SHARE * free_bytes(device) if gigabytes is None else gigabytes * _GB


def groups(jobs: Sequence[Prepared], room: float) -> list[list[Prepared]]:
    """The jobs in their order, as many at a time as have room in so many bytes, but one at least."""
    found: list[list[Prepared]] = []
    for each in jobs:
        if found and taken([*found[-1], each]) <= room:
            found[-1].append(each)
        else:
            found.append([each])
    return found


def in_words(found: Sequence[Sequence[Prepared]], room: float) -> list[str]:
    """What each group takes, a line each."""
    return [
        f"group {number} of {len(found)}: {len(group)} jobs, {taken(group) / _GB:.2f} GB beside the model "
        f"(of {room / _GB:.2f}): {', '.join(each.job.folder.name for each in group)}"
        for number, group in enumerate(found, 1)
    ]
