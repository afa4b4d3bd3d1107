"""The gated sparse autoencoder (Rajamanoharan et al. 2024, arXiv 2404.16014)."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from sae_nfm.models.saes.base import ALL, Attempt, Centre, SparseAutoencoder, active_above, variance
from sae_nfm.models.saes.firing import Firing
from sae_nfm.models.saes.penalty import l1_term, lift_terms
from sae_nfm.settings.values import Count, NonNegative, Positive, checked


@checked
class GatedSAE(SparseAutoencoder):
    """x̂ = W_dec f + b_dec with f = 1[π > 0]·relu(exp(r_mag) c + b_mag) and unit-norm decoder rows.

    Here c = W_enc (x − b_dec), and π = c + b_gate are the gates. The loss has an L1 penalty on relu(π), of
    the weight that gives the L0 asked for, and the error of a reconstruction by relu(π) through a decoder
    that does not feel it: it trains the gates, which no gradient reaches through f.

    Args:
        d_in: width of the activations.
        d_sae: number of latents.
        l0: active latents per token, on average, that training aims at.
        b_dec_init: where `initialize_` puts the decoder bias.
        lift_coefficient: weight in the loss of what lifts the biases of dead latents; 0 leaves it out.
        dead_after: tokens without firing after which a latent counts as dead.

    Raises:
        NotAllowed: a setting is out of range.
    """

    family = "gated"

    def __init__(
        self,
        d_in: Count,
        d_sae: Count,
        l0: Positive = 32.0,
        b_dec_init: Centre = "geometric_median",
        lift_coefficient: NonNegative = 0.03,
        dead_after: Count = 20_000,
    ) -> None:
        super().__init__(d_in, d_sae, b_dec_init)
        self.l0 = l0
        self.lift_coefficient, self.dead_after = lift_coefficient, dead_after
        self.register_parameter("b_enc", None)  # gate and magnitude have a bias each
        for name in ("b_gate", "b_mag", "r_mag"):
            self.register_parameter(name, nn.Parameter(torch.zeros(d_sae)))

    def pre_activations(
        self, x: Float[Tensor, "token d_in"], latents: Int64[Tensor, " latent"] | slice = ALL
    ) -> Float[Tensor, "token latent"]:
        """π, of all latents or of those chosen."""
        return torch.addmm(self.b_gate[latents], self.centred(x), self.W_enc_rows[latents].t())

    def latents(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_sae"]:
        """The magnitudes of what passes the gates, and 0."""
        return self._behind(self.pre_activations(x))

    def attempt(self, x: Float[Tensor, "token d_in"], firing: Firing) -> Attempt:
        """The reconstruction, the gates' own, the penalty, and the lift of dead latents."""
        gates = self.pre_activations(x)
        f, opened = self._behind(gates), gates.relu()
        reconstruction = torch.addmm(self.b_dec, f, self.W_dec)
        by_gates = torch.addmm(self.b_dec.detach(), opened, self.W_dec.detach())
        terms = {
            "l1": l1_term(opened, x, firing, self.l0),
            "gates": (x - by_gates).pow(2).sum() / variance(x),
        }
        dead = firing.silent_for(self.dead_after)
        terms |= lift_terms(self, x, self.b_gate, dead, self.lift_coefficient)
        counts = (f > 0).sum(0)
        return Attempt(reconstruction, counts > 0, counts.sum() / len(x), terms)

    def _behind(self, gates: Float[Tensor, "token d_sae"]) -> Float[Tensor, "token d_sae"]:
        gain = self.r_mag.exp()
        magnitudes = torch.addcmul(self.b_mag - gain * self.b_gate, gain, gates)  # of c = π − b_gate
        return torch.where(gates > 0, magnitudes.relu(), 0)

    @torch.no_grad()
    def start_sparse_(self, sample: Float[Tensor, "token d_in"]) -> None:
        """Lower the gates' biases."""
        self.b_gate.sub_(active_above(self.pre_activations(sample), self.l0))

    def before_step_(self) -> None:
        """Keep the decoder's gradient orthogonal to its rows."""
        self.project_decoder_gradient_()

    @torch.no_grad()
    def after_step_(self) -> None:
        """Bring the decoder's rows back to unit norm, and magnitudes to what is not negative behind a gate.

        Where a gate opens, c = −b_gate. A latent with a negative magnitude there could have an open gate and
        never be active, and nothing would change that.
        """
        self.normalize_decoder_()
        self.b_mag.copy_(torch.maximum(self.b_mag, self.r_mag.exp() * self.b_gate))
