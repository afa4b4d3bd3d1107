"""How a dictionary learns: what for, by which optimizer, on how many tokens."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer

from sae_nfm.settings.values import NotAllowed
from sae_nfm.training.objectives.behaviour import Behaviour
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
        name: of what for, as the settings know it.
        objective: what for.
        optimizer: an optimizer that lacks only its parameters.
        optimizer_setting: the setting that chooses it.
        tokens_setting: the setting that says on how many tokens.
        num_tokens: so many.
        batch_tokens: tokens per step.
        warmup: fraction of the steps in which the learning rate rises.
        decay: fraction of the steps in which it falls.
        settings: everything that changes weights, as the configuration has it.
    """

    name: str
    objective: Reconstruction | Behaviour
    optimizer: OptimizerFactory
    optimizer_setting: str
    tokens_setting: str
    num_tokens: int
    batch_tokens: int
    warmup: float
    decay: float
    settings: Mapping[str, Any]

    @property
    def reconstruction(self) -> Reconstruction:
        """The objective of a stage that looks at activations alone."""
        assert not isinstance(self.objective, Behaviour)
        return self.objective

    @property
    def through_model(self) -> bool:
        """Whether the objective looks at what the model does, and so learns from whole blocks."""
        return isinstance(self.objective, Behaviour)

    def blocks(self, context: int) -> int:
        """Blocks of a step, where whole blocks are learnt from.

        Raises:
            NotAllowed: a batch holds none.
        """
        if self.batch_tokens < context:
            raise NotAllowed("batch_tokens", self.batch_tokens, f"whole numbers from context={context}")
        return self.batch_tokens // context

    def schedule(self, rounds: int = 1, batch_tokens: int | None = None) -> Schedule:
        """The learning rate over as many whole batches as the tokens hold, so many rounds of it.

        Args:
            rounds: of the tokens.
            batch_tokens: of a step, where they are not `batch_tokens`.

        Raises:
            NotAllowed: there are too few tokens for one batch.
        """
        batch_tokens = batch_tokens or self.batch_tokens
        if self.num_tokens < batch_tokens:
            allowed = f"whole numbers from batch_tokens={batch_tokens}"
            raise NotAllowed(self.tokens_setting, self.num_tokens, allowed)
        return Schedule(rounds * (self.num_tokens // batch_tokens), self.warmup, self.decay)

    def trained_tokens(self, rounds: int = 1) -> int:
        """Tokens of all whole batches."""
        return rounds * (self.num_tokens // self.batch_tokens) * self.batch_tokens

    def concerns(self, metrics: Mapping[str, float], start: str) -> list[str]:
        """That training did not help, where what it started from was the best that was found."""
        if metrics["best_step"] > 0:
            return []
        return [
            f"training made it only worse, and {start} was kept; a lower {self.optimizer_setting}.lr or a "
            "longer warmup usually mends this"
        ]

    def spec(self, rounds: int = 1) -> dict[str, Any]:
        """What of an artifact's fingerprint is how it learnt."""
        return {**self.settings, "train_tokens": rounds * self.num_tokens}
