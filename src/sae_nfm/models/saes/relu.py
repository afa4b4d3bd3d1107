"""The ReLU sparse autoencoder (Conerly et al., April 2024, "Update on how we train SAEs")."""

import torch
from jaxtyping import Float
from torch import Tensor

from sae_nfm.models.entries import encode_above, sums
from sae_nfm.models.saes.base import Attempt, Centre, SparseAutoencoder, active_above
from sae_nfm.models.saes.firing import Firing
from sae_nfm.models.saes.penalty import l1_term, lift_terms
from sae_nfm.settings.values import Count, NonNegative, Positive, checked


@checked
class ReLUSAE(SparseAutoencoder):
    """x̂ = W_dec f + b_dec with f = relu(W_enc (x − b_dec) + b_enc) and unit-norm decoder rows.

    The loss has an L1 penalty, of the weight that gives the L0 asked for.

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

    def latents(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_sae"]:
        """The rectified pre-activations."""
        return self.pre_activations(x).relu()

    def attempt(self, x: Float[Tensor, "token d_in"], firing: Firing) -> Attempt:
        """The reconstruction, the penalty, and the lift of dead latents."""
        active = encode_above(self.centred(x), self.W_enc_rows, self.b_enc, 0.0)
        reconstruction = sums(active, active.tokens, len(x), self.W_dec) + self.b_dec
        dead, counts = firing.silent_for(self.dead_after), active.counts()
        terms = {"l1": l1_term(active.values, x, firing, self.l0)}
        terms |= lift_terms(self, x, self.b_enc, dead, self.lift_coefficient)
        return Attempt(reconstruction, active, counts > 0, counts.sum() / len(x), terms)

    @torch.no_grad()
    def start_sparse_(self, sample: Float[Tensor, "token d_in"]) -> None:
        """Lower the biases."""
        self.b_enc.sub_(active_above(self, sample, self.l0))

    def before_step_(self) -> None:
        """Keep the decoder's gradient orthogonal to its rows."""
        self.project_decoder_gradient_()

    def after_step_(self) -> None:
        """Bring the decoder's rows back to unit norm."""
        self.normalize_decoder_()
