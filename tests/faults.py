"""Objectives with something wrong, for `objectives.reconstruction._target_=faults.…`."""

import torch.distributed as dist

from sae_nfm.training.objectives.reconstruction import Reconstruction


class HasABug(Reconstruction):
    """Fails as a program does that is wrong, not as a setting."""

    def of_activation(self, *args):
        first, second = args[:1]
        return first, second


class RaisesOnRank0(Reconstruction):
    """Ends the training of the SAE on one rank only."""

    rank = 0

    def of_activation(self, *args):
        if dist.get_rank() == self.rank:
            raise OSError(f"rank {self.rank} has no disk")
        return super().of_activation(*args)


class RaisesOnRank1(RaisesOnRank0):
    """The same on the other."""

    rank = 1
