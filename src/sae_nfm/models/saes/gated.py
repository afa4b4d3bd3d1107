"""The gated sparse autoencoder (Rajamanoharan et al. 2024, arXiv 2404.16014)."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from sae_nfm.models.entries import encode_above, sums
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
        self.b_gate = nn.Parameter(torch.zeros(d_sae))
        self.b_mag = nn.Parameter(torch.zeros(d_sae))
        self.r_mag = nn.Parameter(torch.zeros(d_sae))

    def pre_activations(
        self, x: Float[Tensor, "token d_in"], latents: Int64[Tensor, " latent"] | slice = ALL
    ) -> Float[Tensor, "token latent"]:
        """π, of all latents or of those chosen."""
        return torch.addmm(self.b_gate[latents], self.centred(x), self.W_enc_rows[latents].t())

    def latents(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_sae"]:
        """The magnitudes of what passes the gates, and 0."""
        c = self.centred(x) @ self.W_enc
        magnitudes = torch.addcmul(self.b_mag, self.r_mag.exp(), c)
        return torch.where(c + self.b_gate > 0, magnitudes.relu(), 0)

    def attempt(self, x: Float[Tensor, "token d_in"], firing: Firing) -> Attempt:
        """The reconstruction, the gates' own, the penalty, and the lift of dead latents."""
        c = encode_above(self.centred(x), self.W_enc_rows, torch.zeros_like(self.b_gate), -self.b_gate)
        magnitudes = torch.addcmul(self.b_mag[c.latents], self.r_mag.exp()[c.latents], c.values)
        f, gates = c.having(magnitudes.relu()), c.having(c.values + self.b_gate[c.latents])
        reconstruction = sums(f, f.tokens, len(x), self.W_dec) + self.b_dec
        by_gates = sums(gates, gates.tokens, len(x), self.W_dec.detach()) + self.b_dec.detach()
        dead, counts = firing.silent_for(self.dead_after), f.counts()
        terms = {
            "l1": l1_term(gates.values, x, firing, self.l0),
            "gates": (x - by_gates).pow(2).sum() / variance(x),
            **lift_terms(self, x, self.b_gate, dead, self.lift_coefficient),
        }
        return Attempt(reconstruction, f, counts > 0, counts.sum() / len(x), terms)

    @torch.no_grad()
    def start_sparse_(self, sample: Float[Tensor, "token d_in"]) -> None:
        """Lower the gates' biases."""
        self.b_gate.sub_(active_above(self, sample, self.l0))

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
        if self.row_norms is None:  # one that was trained elsewhere has what it has
            self.b_mag.copy_(torch.maximum(self.b_mag, self.r_mag.exp() * self.b_gate))
