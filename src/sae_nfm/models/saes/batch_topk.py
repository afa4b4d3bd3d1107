"""The BatchTopK sparse autoencoder (Bussmann et al. 2024, "BatchTopK sparse autoencoders")."""

import torch
from jaxtyping import Float
from torch import Tensor

from sae_nfm.models.entries import Entries, encode_largest, sums
from sae_nfm.models.saes.auxk import auxk_terms
from sae_nfm.models.saes.base import Attempt, Centre, SparseAutoencoder, active_above
from sae_nfm.models.saes.firing import Firing
from sae_nfm.settings.values import Count, NonNegative, NotAllowed, checked

_RATE = 0.02  # by which θ follows the batches
_SURELY_BELOW = 0.9  # of θ: only what is above needs sorting


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
        self.k = self.l0 = k
        self.auxk, self.auxk_coefficient, self.dead_after = auxk, auxk_coefficient, dead_after
        self.register_buffer("threshold", torch.zeros(()))
        self._least = self.threshold

    def latents(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_sae"]:
        """The pre-activations above θ, and 0."""
        pre = self.pre_activations(x)
        return torch.where(pre > self.threshold, pre.relu(), 0)

    def attempt(self, x: Float[Tensor, "token d_in"], firing: Firing) -> Attempt:
        """The reconstruction by the k·B largest latents, and AuxK where latents are dead."""
        active = self.largest(x)
        reconstruction = sums(active, active.tokens, len(x), self.W_dec) + self.b_dec
        return self.attempted(x, active, reconstruction, firing)

    def attempted(
        self, x: Float[Tensor, "token d_in"], active: Entries, reconstruction: Tensor, firing: Firing
    ) -> Attempt:
        """What there is to say of a reconstruction by given latents."""
        dead, counts = firing.silent_for(self.dead_after), active.counts()
        terms = auxk_terms(self, x, reconstruction, dead, self.auxk, self.auxk_coefficient)
        return Attempt(reconstruction, active, counts > 0, counts.sum() / len(x), terms)

    def largest(self, x: Float[Tensor, "token d_in"]) -> Entries:
        """The k·B largest latents of a batch of B tokens; θ will follow the least of them."""
        guess = _SURELY_BELOW * self.threshold
        active = encode_largest(self.centred(x), self.W_enc_rows, self.b_enc, self.k * len(x), guess)
        self._least = active.values.detach().min() if len(active.values) else self.threshold
        return active

    @torch.no_grad()
    def start_sparse_(self, sample: Float[Tensor, "token d_in"]) -> None:
        """Put θ below the k·B largest of the sample."""
        self.threshold.copy_(active_above(self, sample, self.k).clamp_min(0))

    def before_step_(self) -> None:
        """Keep the decoder's gradient orthogonal to its rows."""
        self.project_decoder_gradient_()

    def after_step_(self) -> None:
        """Bring the decoder's rows back to unit norm, and move θ."""
        self.normalize_decoder_()
        self.threshold.lerp_(self._least, _RATE)
