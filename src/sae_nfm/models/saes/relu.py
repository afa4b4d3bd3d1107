"""The ReLU sparse autoencoder (Conerly et al., April 2024, "Update on how we train SAEs")."""

import torch
from jaxtyping import Float
from torch import Tensor

from sae_nfm.models.saes.auxk import auxk_terms
from sae_nfm.models.saes.base import Attempt, Centre, SparseAutoencoder, variance
from sae_nfm.models.saes.firing import Firing
from sae_nfm.settings.values import Count, NonNegative, Positive, checked

RATE, GAIN, START, UNIT = 0.02, 0.5, 0.03, True
INIT = 1.0

@checked
class ReLUSAE(SparseAutoencoder):
    penalty: Float[Tensor, ""]

    def __init__(
        self,
        d_in: Count,
        d_sae: Count,
        l0: Positive = 32.0,
        b_dec_init: Centre = "geometric_median",
        auxk: Count | None = None,
        auxk_coefficient: NonNegative = 0.0,
        dead_after: Count = 20_000,
    ) -> None:
        super().__init__(d_in, d_sae, b_dec_init)
        self.l0 = l0
        self.auxk, self.auxk_coefficient, self.dead_after = auxk, auxk_coefficient, dead_after
        self.register_buffer("penalty", torch.tensor(START))
        self.register_buffer("smooth", torch.tensor(0.0))

    def latents(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_sae"]:
        """The rectified pre-activations."""
        return self.pre_activations(x).relu()

    def attempt(self, x: Float[Tensor, "token d_in"], firing: Firing) -> Attempt:
        f = self.latents(x)
        reconstruction = torch.addmm(self.b_dec, f, self.W_dec)
        active = f > 0
        l0 = active.sum() / len(x)
        weight = self.penalty * (self.smooth * GAIN).exp()
        size = (variance(x) / len(x)).sqrt()
        terms = {"sparsity": weight * (f.mean(0) @ self.W_dec.norm(dim=1)) / size}
        dead = firing.silent_for(self.dead_after)
        terms |= auxk_terms(self, x, reconstruction, dead, self.auxk, self.auxk_coefficient)
        self._l0 = l0
        return Attempt(reconstruction, active.any(0), l0, terms)

    @torch.no_grad()
    def initialize_(self, sample: Float[Tensor, "token d_in"]) -> None:
        self._centre_(sample)
        pre = self.pre_activations(sample[:4096])
        number = int(INIT * self.l0 * len(pre))
        self.b_enc.fill_(-pre.flatten().kthvalue(pre.numel() - number).values)
        before = self.W_enc_rows[0].norm()
        super().initialize_(sample)
        self.b_enc.mul_(self.W_enc_rows[0].norm() / before)

    def before_step_(self) -> None:
        if UNIT: self.project_decoder_gradient_()

    def after_step_(self) -> None:
        if UNIT: self.normalize_decoder_()
        error = (self._l0 / self.l0).log().clamp(-1, 1)
        self.penalty.mul_((RATE * error).exp())
        self.smooth.lerp_(error, 0.1)
