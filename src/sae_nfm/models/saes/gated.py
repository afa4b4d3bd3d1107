"""The gated sparse autoencoder (Rajamanoharan et al. 2024, 2404.16014)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_nfm.models.saes.auxk import auxk_terms
from sae_nfm.models.saes.base import Attempt, Centre, SparseAutoencoder, variance
from sae_nfm.models.saes.firing import Firing
from sae_nfm.settings.values import Count, NonNegative, Positive, checked

RATE, GAIN, START, UNIT = 0.02, 0.0, 0.03, True
INIT = 1.0

@checked
class GatedSAE(SparseAutoencoder):
    penalty: Float[Tensor, ""]

    def __init__(
        self,
        d_in: Count,
        d_sae: Count,
        l0: Positive = 32.0,
        b_dec_init: Centre = "geometric_median",
    ) -> None:
        super().__init__(d_in, d_sae, b_dec_init)
        self.l0 = l0
        self.register_parameter("b_enc", None)  # gate and magnitude have a bias each
        for name in ("b_gate", "b_mag", "r_mag"):
            self.register_parameter(name, nn.Parameter(torch.zeros(d_sae)))
        self.register_buffer("penalty", torch.tensor(START))
        self.register_buffer("smooth", torch.tensor(0.0))

    def parts(self, x):
        c = self.centred(x) @ self.W_enc
        gate = c + self.b_gate
        return gate, torch.where(gate > 0, torch.relu(self.r_mag.exp() * c + self.b_mag), 0)

    def latents(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_sae"]:
        return self.parts(x)[1]

    def attempt(self, x: Float[Tensor, "token d_in"], firing: Firing) -> Attempt:
        gate, f = self.parts(x)
        reconstruction = torch.addmm(self.b_dec, f, self.W_dec)
        active = f > 0
        l0 = active.sum() / len(x)
        weight = self.penalty * (self.smooth * GAIN).exp()
        size = (variance(x) / len(x)).sqrt()
        p = gate.relu()
        by_gate = torch.addmm(self.b_dec.detach(), p, self.W_dec.detach())
        terms = {"sparsity": weight * (p.mean(0) @ self.W_dec.norm(dim=1)) / size, "gate": (x - by_gate).pow(2).sum() / variance(x)}
        self._l0 = l0
        return Attempt(reconstruction, active.any(0), l0, terms)

    @torch.no_grad()
    def initialize_(self, sample: Float[Tensor, "token d_in"]) -> None:
        self._centre_(sample)
        pre = self.parts(sample[:4096])[0]
        number = int(INIT * self.l0 * len(pre))
        self.b_gate.fill_(-pre.flatten().kthvalue(pre.numel() - number).values)
        before = self.W_enc_rows[0].norm()
        super().initialize_(sample)
        self.b_gate.mul_(self.W_enc_rows[0].norm() / before)

    def before_step_(self) -> None:
        if UNIT: self.project_decoder_gradient_()

    def after_step_(self) -> None:
        if UNIT: self.normalize_decoder_()
        error = (self._l0 / self.l0).log().clamp(-1, 1)
        self.penalty.mul_((RATE * error).exp())
        self.smooth.lerp_(error, 0.1)
