"""The squared error of what is reconstructed."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sae_nfm.models.saes.base import variance


class Reconstruction:
    """Squared error as a fraction of what there is to explain, over the batch."""

    def of_activation(
        self, x: Float[Tensor, "token d_in"], reconstruction: Float[Tensor, "token d_in"]
    ) -> Float[Tensor, ""]:
        """Fraction of the batch's variance that a reconstruction leaves (FVU)."""
        return (x - reconstruction).pow(2).sum() / variance(x)

    def of_residual(
        self, residual: Float[Tensor, "token d_in"], predicted: Float[Tensor, "token d_in"]
    ) -> Float[Tensor, ""]:
        """Fraction of the residual's energy that a prediction of it leaves."""
        return F.mse_loss(predicted, residual, reduction="sum") / residual.pow(2).sum()
