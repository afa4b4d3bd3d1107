"""The JumpReLU sparse autoencoder (Rajamanoharan et al. 2024, "Jumping ahead")."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_nfm.models.saes.base import Centre, SparseAutoencoder
from sae_nfm.settings.values import Count, Positive, checked


@checked
class JumpReLUSAE(SparseAutoencoder):
    """x̂ = W_dec f + b_dec with f = relu(pre)·1[pre > θ], pre = W_enc (x − b_dec) + b_enc, and a θ per latent.

    Args:
        d_in: width of the activations.
        d_sae: number of latents.
        l0: active latents per token, on average, that training aims at.
        b_dec_init: where `initialize_` puts the decoder bias.

    Raises:
        NotAllowed: a setting is out of range.
    """

    def __init__(
        self, d_in: Count, d_sae: Count, l0: Positive = 32.0, b_dec_init: Centre = "geometric_median"
    ) -> None:
        super().__init__(d_in, d_sae, b_dec_init)
        self.l0 = l0
        self.threshold = nn.Parameter(torch.zeros(d_sae))

    def latents(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_sae"]:
        """The pre-activations above θ, and 0."""
        pre = self.pre_activations(x)
        return torch.where(pre > self.threshold, pre.relu(), 0)
