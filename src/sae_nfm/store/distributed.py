"""Several processes that share a study, on one node or many."""

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from lightning import Fabric

from sae_nfm.store.processes import ENDS_WITH
from sae_nfm.store.ranks import Ranks, T

_PATIENCE = timedelta(days=30)  # the first process may wait so long for what another job is training


def start_ranks(accelerator: str, devices: Any, num_nodes: int, strategy: str) -> Ranks:
    """Start the processes that a trainer asks for, or meet those that SLURM or `torchrun` has started.

    All of this comes before the first stage, so that the processes decide about every artifact together;
    Lightning would start them at the first training, when part of the decisions is past.
    """
    os.environ[ENDS_WITH] = str(os.getpid())
    kind = "auto" if strategy == "auto" else "ddp"
    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=num_nodes, strategy=kind)
    fabric.launch()
    ranks = DistributedRanks() if dist.is_initialized() else Ranks()
    ranks.device = fabric.device
    return ranks


class DistributedRanks(Ranks):
    """The members of torch's process group, which talk over a group of their own.

    The group of the training would give up after half an hour of waiting.
    """

    def __init__(self) -> None:
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        group = dist.new_group(backend="gloo", timeout=_PATIENCE)
        assert isinstance(group, dist.ProcessGroup)
        self._group = group

    def from_first(self, compute: Callable[[], T]) -> T:
        """What the first process computes, in all of them; where it raises, the others end without a word."""
        message: list[Any] = [None, False]
        if self.is_first:
            try:
                message = [compute(), True]
            except Exception:
                dist.broadcast_object_list(message, src=0, group=self._group)
                raise
        dist.broadcast_object_list(message, src=0, group=self._group)
        if not message[1]:
            sys.exit(0)
        return message[0]

    def gathered(self, value: T) -> list[T]:
        """What every process has, in all of them."""
        found: list[Any] = [None] * self.world_size
        dist.all_gather_object(found, value, group=self._group)
        return found

    def check_equal(self, fingerprint: str) -> None:
        """Raise an error if not every process composed the same settings."""
        found = self.gathered(fingerprint)
        if len(set(found)) > 1:
            raise RuntimeError(f"{self.world_size} processes with settings of their own: {', '.join(found)}")
