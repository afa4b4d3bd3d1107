"""How a dictionary learns: what for, by which optimizer, on how many tokens."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer

from sae_nfm.settings.values import NotAllowed
from sae_nfm.training.objectives.reconstruction import Reconstruction
from sae_nfm.training.schedule import Schedule


class OptimizerFactory(Protocol):
    """An optimizer that lacks only its parameters."""

    def __call__(self, params: Iterable[nn.Parameter]) -> Optimizer:
        """Bind it to parameters."""
        ...


@dataclass(frozen=True)
class Learning:
    """How the dictionaries of one kind learn.

    Args:
        objective: what for.
        optimizer: an optimizer that lacks only its parameters.
        tokens_setting: the setting that says on how many tokens.
        num_tokens: so many.
        batch_tokens: tokens per step.
        warmup: fraction of the steps in which the learning rate rises.
        decay: fraction of the steps in which it falls.
        settings: everything that changes weights, as the configuration has it.
    """

    objective: Reconstruction
    optimizer: OptimizerFactory
    tokens_setting: str
    num_tokens: int
    batch_tokens: int
    warmup: float
    decay: float
    settings: Mapping[str, Any]

    def schedule(self, rounds: int = 1) -> Schedule:
        """The learning rate over as many whole batches as the tokens hold, so many rounds of it.

        Raises:
            NotAllowed: there are too few tokens for one batch.
        """
        if self.num_tokens < self.batch_tokens:
            allowed = f"whole numbers from batch_tokens={self.batch_tokens}"
            raise NotAllowed(self.tokens_setting, self.num_tokens, allowed)
        return Schedule(rounds * (self.num_tokens // self.batch_tokens), self.warmup, self.decay)

    def spec(self, rounds: int = 1) -> dict[str, Any]:
        """What of an artifact's fingerprint is how it learnt."""
        return {**self.settings, "train_tokens": rounds * self.num_tokens}
