"""Mean, covariance and a bank of a site's activations."""

from pathlib import Path
from typing import Any

import torch

from sae_nfm.baselines import surroundings
from sae_nfm.baselines.surroundings import Surroundings
from sae_nfm.recipes.activations import SiteActivations
from sae_nfm.recipes.recipe import Demand, OfASite


class MeasuredSurroundings(OfASite):
    """Measures a site's surroundings.

    Args:
        activations: of the site.
        covariance_tokens: training activations behind mean and covariance.
        bank_tokens: validation activations in the bank.
    """

    kind = "surroundings"

    def __init__(self, activations: SiteActivations, covariance_tokens: int, bank_tokens: int) -> None:
        super().__init__(activations)
        self.covariance_tokens, self.bank_tokens = covariance_tokens, bank_tokens

    def spec(self) -> dict[str, Any]:
        """The activations and both sizes."""
        sizes = {"covariance_tokens": self.covariance_tokens, "bank_tokens": self.bank_tokens}
        return self.activations.spec() | sizes

    def make(self, folder: Path) -> None:
        """Read activations and measure."""
        training, validation = self.activations.stream(), self.activations.validation(self.activations.seed)
        surroundings.measure(training, validation, self.covariance_tokens, self.bank_tokens, folder)

    def blank(self) -> Surroundings:
        """As many numbers, all 0."""
        d = self.activations.lm.d_model
        return Surroundings(torch.zeros(d), torch.zeros(d, d), torch.zeros(self.bank_tokens, d))

    def demand(self) -> Demand:
        """Both samples are read."""
        saved = sum(4 * part.numel() for part in self.blank())
        return Demand(self.covariance_tokens + self.bank_tokens, saved)

    def load(self, folder: Path) -> Surroundings:
        """What was measured."""
        return surroundings.load(folder)
