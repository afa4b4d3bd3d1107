"""The gated sparse autoencoder (Rajamanoharan et al. 2024, 2404.16014)"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_nfm.models.saes.base import Centre, SparseAutoencoder
from sae_nfm.settings.values import Count, Positive, checked


@checked
class GatedSAE(SparseAutoencoder):
    """x̂ = W_dec f + b_dec with f = 1[c + b_gate > 0]·relu(exp(r_mag) c + b_mag), c = W_enc (x − b_dec).

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
        self.register_parameter("b_enc", None)  # gate and magnitude have a bias each
        for name in ("b_gate", "b_mag", "r_mag"):
            self.register_parameter(name, nn.Parameter(torch.zeros(d_sae)))

    def latents(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_sae"]:
        """The magnitudes of what passes the gates, and 0."""
        c = self.centred(x) @ self.W_enc
        return torch.where(c + self.b_gate > 0, torch.relu(self.r_mag.exp() * c + self.b_mag), 0)
