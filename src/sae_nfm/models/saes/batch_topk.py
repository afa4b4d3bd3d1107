"""The BatchTopK sparse autoencoder (Bussmann et al. 2024, "BatchTopK sparse autoencoders")."""

import torch
from jaxtyping import Float
from torch import Tensor

from sae_nfm.models.saes.base import Centre, SparseAutoencoder
from sae_nfm.settings.values import Count, NonNegative, NotAllowed, checked


@checked
class BatchTopKSAE(SparseAutoencoder):
    """x̂ = W_dec f + b_dec with f = relu(pre)·1[pre > θ], pre = W_enc (x − b_dec) + b_enc, and unit-norm rows.

    In training the k·B largest of a batch of B tokens are active instead, and θ follows the least of them.

    Args:
        d_in: width of the activations.
        d_sae: number of latents.
        k: active latents per token, on average.
        b_dec_init: where `initialize_` puts the decoder bias.
        auxk: how many dead latents, at most, predict the residual of each token; None is half of d_in.
        auxk_coefficient: weight of that prediction's error in the loss; 0 leaves it out.
        dead_after: tokens without firing after which a latent counts as dead.

    Raises:
        NotAllowed: `k` is not between 1 and `d_sae`, or a setting is out of range.
    """

    threshold: Float[Tensor, ""]
    """θ, above which latents are active."""

    def __init__(
        self,
        d_in: Count,
        d_sae: Count,
        k: Count,
        b_dec_init: Centre = "geometric_median",
        auxk: Count | None = None,
        auxk_coefficient: NonNegative = 0.125,
        dead_after: Count = 20_000,
    ) -> None:
        super().__init__(d_in, d_sae, b_dec_init)
        if k > d_sae:
            raise NotAllowed("k", k, f"1 to d_sae={d_sae}")
        self.k = k
        self.auxk, self.auxk_coefficient, self.dead_after = auxk, auxk_coefficient, dead_after
        self.register_buffer("threshold", torch.zeros(()))

    def latents(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_sae"]:
        """The pre-activations above θ, and 0."""
        pre = self.pre_activations(x)
        return torch.where(pre > self.threshold, pre.relu(), 0)
