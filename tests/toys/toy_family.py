"""A family of SAEs in one file: pre-activations shrunk by a fixed threshold, with an L1 penalty."""

from sae_nfm.models.codes import active_latents
from sae_nfm.models.saes.base import Attempt, SparseAutoencoder, variance
from sae_nfm.settings.values import Count, NonNegative, checked


@checked
class ShrinkingSAE(SparseAutoencoder):
    def __init__(self, d_in: Count, d_sae: Count, threshold: NonNegative, penalty: NonNegative) -> None:
        super().__init__(d_in, d_sae, "mean")
        self.threshold, self.penalty = threshold, penalty

    def latents(self, x):
        return (self.pre_activations(x) - self.threshold).relu()

    def attempt(self, x, firing):
        f = self.latents(x)
        active = f > 0
        terms = {"sparsity": self.penalty * f.sum() * self.W_dec.norm() / variance(x)}
        reconstruction = f @ self.W_dec + self.b_dec
        return Attempt(reconstruction, active_latents(f), active.any(0), active.sum() / len(x), terms)

    def after_step_(self):
        self.normalize_decoder_()
