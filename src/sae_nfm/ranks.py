"""The processes of one study, and what the first of them decides for all."""

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from sae_nfm.processes import ENDS_WITH

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

T = TypeVar("T")
_PATIENCE = timedelta(days=30)  # the first process may wait so long for what another job is training


class Ranks:
    """The processes that share a study; without arguments, the one process that is a study by itself.

    Args:
        rank: number of this process, from 0.
        world_size: how many there are.
        group: carries what they tell each other; None where there is one.
    """

    def __init__(self, rank: int = 0, world_size: int = 1, group: "ProcessGroup | None" = None) -> None:
        self.rank, self.world_size, self.group = rank, world_size, group

    @classmethod
    def start(cls, accelerator: str, devices: Any, num_nodes: int, strategy: str) -> "Ranks":
        """Start the other processes, or find them started by SLURM or `torchrun`, and get to know them.

        All of this comes before the first stage, so that the processes decide about every artifact together;
        Lightning would start them at the first training, when part of the decisions is past.
        """
        os.environ[ENDS_WITH] = str(os.getpid())
        kind = "auto" if strategy == "auto" else "ddp"
        fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=num_nodes, strategy=kind)
        fabric.launch()
        if not dist.is_initialized():
            return cls()
        # A group of its own: that of the training gives up after half an hour of waiting.
        group = dist.new_group(backend="gloo", timeout=_PATIENCE)
        return cls(fabric.global_rank, fabric.world_size, group)

    @property
    def is_first(self) -> bool:
        """Whether this process decides, writes and prints."""
        return self.rank == 0

    def from_first(self, compute: Callable[[], T]) -> T:
        """What the first process computes, in all of them.

        Where it raises, the others end quietly, because the first says why.
        """
        if self.group is None:
            return compute()
        message: list[Any] = [None, False]
        if self.is_first:
            try:
                message = [compute(), True]
            except Exception:
                dist.broadcast_object_list(message, src=0, group=self.group)
                raise
        dist.broadcast_object_list(message, src=0, group=self.group)
        if not message[1]:
            sys.exit(0)
        return message[0]

    def check_equal(self, fingerprint: str) -> None:
        """Raise a `ValueError` if not every process composed the same settings."""
        if self.group is None:
            return
        found: list[Any] = [None] * self.world_size
        dist.all_gather_object(found, fingerprint, group=self.group)
        if len(set(found)) > 1:
            raise ValueError(
                f"the {self.world_size} processes have settings of their own: {', '.join(found)}"
            )
