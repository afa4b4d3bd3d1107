"""The ReLU sparse autoencoder (Conerly et al., April 2024, "Update on how we train SAEs")."""

from jaxtyping import Float
from torch import Tensor

from sae_nfm.models.saes.base import Centre, SparseAutoencoder
from sae_nfm.settings.values import Count, Positive, checked


@checked
class ReLUSAE(SparseAutoencoder):
    """x̂ = W_dec f + b_dec with f = relu(W_enc (x − b_dec) + b_enc).

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

    def latents(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_sae"]:
        """The rectified pre-activations."""
        return self.pre_activations(x).relu()
