"""What a dictionary is trained for."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_nfm.models.sae import TopKSAE
from sae_nfm.settings import Count, NonNegative, checked


class SAELoss(NamedTuple):
    """The terms of an SAE's loss, each a scalar."""

    total: Float[Tensor, ""]
    fvu: Float[Tensor, ""]
    """Fraction of the batch's variance that the reconstruction leaves."""
    auxk: Float[Tensor, ""]
    """The same fraction of the residual, left by the dead latents' attempt at it; 0 where none is dead."""


@checked
class Reconstruction:
    """Squared error, scaled by the batch's variance; for SAEs with the AuxK term of Gao et al. (2024).

    Args:
        auxk: how many dead latents, at most, predict the residual of each token; None is half of d_in.
        auxk_coefficient: weight of that prediction's error in the loss; 0 leaves it out.

    Raises:
        NotAllowed: a number is out of range.
    """

    def __init__(self, auxk: Count | None, auxk_coefficient: NonNegative) -> None:
        self.auxk, self.auxk_coefficient = auxk, auxk_coefficient

    def sae_loss(
        self, sae: TopKSAE, x: Float[Tensor, "token d_in"], reconstruction: Float[Tensor, "token d_in"],
        dead: Bool[Tensor, " d_sae"],
    ) -> SAELoss:  # fmt: skip
        """Loss of a reconstruction of normalised activations, mean over the batch."""
        variance = (x - x.mean(0)).pow(2).sum()
        fvu = (x - reconstruction).pow(2).sum() / variance
        auxk = x.new_zeros(())
        if self.auxk_coefficient > 0 and dead.any():
            residual = (x - reconstruction).detach()
            predicted = sae.reconstruct_with(x, dead, sae.d_in // 2 if self.auxk is None else self.auxk)
            auxk = (residual - predicted).pow(2).sum() / residual.pow(2).sum()
            auxk = torch.nan_to_num(auxk, nan=0.0)
        return SAELoss(fvu + self.auxk_coefficient * auxk, fvu, auxk)

    def residual_loss(
        self, residual: Float[Tensor, "token d_in"], predicted: Float[Tensor, "token d_in"]
    ) -> Float[Tensor, ""]:
        """Fraction of the residual's energy that a prediction of it leaves, over the batch."""
        return (residual - predicted).pow(2).sum() / residual.pow(2).sum()
