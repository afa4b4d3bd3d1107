"""Objectives with something wrong, for `objective._target_=faults.…`."""

import torch.distributed as dist

from sae_nfm.training.objectives import Reconstruction


class HasABug(Reconstruction):
    """Fails as a program does that is wrong, not as a setting."""

    def sae_loss(self, *args):
        first, second = args[:1]
        return first, second


class RaisesOnRank0(Reconstruction):
    """Ends the training of the SAE on one rank only."""

    rank = 0

    def sae_loss(self, *args):
        if dist.get_rank() == self.rank:
            raise OSError(f"rank {self.rank} has no disk")
        return super().sae_loss(*args)


class RaisesOnRank1(RaisesOnRank0):
    """The same on the other."""

    rank = 1
