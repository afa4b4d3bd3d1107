"""Normaliser, SAE and NFM as one thing, from model activations to model activations."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from sae_nfm.models.codes import Codes
from sae_nfm.models.nfm import NeuralFactorizationMachine
from sae_nfm.models.normalizer import Normalizer
from sae_nfm.models.sae import TopKSAE


class Parts(NamedTuple):
    """What the dictionaries make of an activation, in the model's units."""

    codes: Codes
    sae: Float[Tensor, "... d_in"]
    """The SAE's reconstruction x̂."""
    linear: Float[Tensor, "... d_in"] | None
    """The NFM's linear part of the residual; None without an NFM."""
    interaction: Float[Tensor, "... d_in"] | None
    """The NFM's interaction part of the residual; None without an NFM."""


class Autoencoder(nn.Module):
    """The one implementation of a reconstruction: training, validation and the splice all call it.

    Args:
        normalizer: fitted on training activations.
        sae: works in the normaliser's units.
        nfm: predicts the SAE's residual in the same units; None for an SAE alone.
    """

    def __init__(
        self, normalizer: Normalizer, sae: TopKSAE, nfm: NeuralFactorizationMachine | None = None
    ) -> None:
        super().__init__()
        self.normalizer, self.sae, self.nfm = normalizer, sae, nfm

    def forward(self, x: Float[Tensor, "... d_in"]) -> Parts:
        """Reconstruct activations in the model's units."""
        codes = self.sae.encode(self.normalizer(x))
        reconstruction = self.normalizer.inverse(self.sae.decode(codes))
        if self.nfm is None:
            return Parts(codes, reconstruction, None, None)
        residual = self.nfm(codes)
        return Parts(
            codes,
            reconstruction,
            self.normalizer.inverse_difference(residual.linear),
            self.normalizer.inverse_difference(residual.interaction),
        )
