"""The learning rate over a run."""

from dataclasses import dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from sae_nfm.settings.values import Fraction, checked


@checked
@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, a plateau, and a linear decay towards zero over the last steps.

    Args:
        num_steps: length of the run.
        warmup: fraction of the run that the warm-up takes.
        decay: fraction of the run that the decay takes.
    """

    num_steps: int
    warmup: Fraction
    decay: Fraction

    def factor(self, step: int) -> float:
        """What the base learning rate is multiplied by at a step, from 0."""
        rising = (step + 1) / max(1, round(self.warmup * self.num_steps))
        falling = (self.num_steps - step) / max(1, round(self.decay * self.num_steps))
        return max(0.0, min(1.0, rising, falling))

    def scheduler(self, optimizer: Optimizer) -> LambdaLR:
        """The schedule bound to an optimizer."""
        return LambdaLR(optimizer, lambda step: self.factor(step))  # of a method, checkpoints keep attributes
