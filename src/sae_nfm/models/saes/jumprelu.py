"""The JumpReLU sparse autoencoder (Rajamanoharan et al. 2024, "Jumping ahead", arXiv 2407.14435)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_nfm.models.entries import Entries, encode_above, sums, totals
from sae_nfm.models.saes.auxk import auxk_terms
from sae_nfm.models.saes.base import Attempt, Centre, SparseAutoencoder, active_above
from sae_nfm.models.saes.firing import Firing
from sae_nfm.settings.values import Count, NonNegative, Positive, checked


@checked
class JumpReLUSAE(SparseAutoencoder):
    """x̂ = W_dec f + b_dec with f = pre·1[pre > θ], pre = W_enc (x − b_dec) + b_enc, and a θ ≥ 0 per latent.

    Decoder rows have unit norm. The loss has (L0/l0 − 1)², which is felt by θ alone.

    Args:
        d_in: width of the activations.
        d_sae: number of latents.
        l0: active latents per token, on average, that training aims at.
        b_dec_init: where `initialize_` puts the decoder bias.
        bandwidth: width ε of the window around θ whose pre-activations move θ, in normalised units.
        l0_coefficient: weight of (L0/l0 − 1)² in the loss.
        auxk: how many dead latents, at most, predict the residual of each token; None is half of d_in.
        auxk_coefficient: weight of that prediction's error in the loss; 0 leaves it out.
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
        bandwidth: Positive = 0.25,
        l0_coefficient: NonNegative = 1.0,
        auxk: Count | None = None,
        auxk_coefficient: NonNegative = 0.125,
        dead_after: Count = 20_000,
    ) -> None:
        super().__init__(d_in, d_sae, b_dec_init)
        self.l0, self.bandwidth, self.l0_coefficient = l0, bandwidth, l0_coefficient
        self.auxk, self.auxk_coefficient, self.dead_after = auxk, auxk_coefficient, dead_after
        self.threshold = nn.Parameter(torch.zeros(d_sae))

    def latents(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_sae"]:
        """The pre-activations above θ, and 0."""
        pre = self.pre_activations(x)
        return torch.where(pre > self.threshold, pre.relu(), 0)

    def attempt(self, x: Float[Tensor, "token d_in"], firing: Firing) -> Attempt:
        """The reconstruction, the distance of L0 from its target, and AuxK where latents are dead."""
        below = self.threshold.detach() - self.bandwidth / 2
        near = encode_above(self.centred(x), self.W_enc_rows, self.b_enc, below)
        f, counts = jump(near, self.threshold, self.bandwidth)
        reconstruction = sums(f, f.tokens, len(x), self.W_dec) + self.b_dec
        l0, dead = counts.sum() / len(x), firing.silent_for(self.dead_after)
        terms = {"l0": self.l0_coefficient * (l0 / self.l0 - 1).pow(2)}
        terms |= auxk_terms(self, x, reconstruction, dead, self.auxk, self.auxk_coefficient)
        return Attempt(reconstruction, f, counts > 0, l0.detach(), terms)

    @torch.no_grad()
    def start_sparse_(self, sample: Float[Tensor, "token d_in"]) -> None:
        """Start all θ at the same value."""
        self.threshold.copy_(active_above(self, sample, self.l0).expand(self.d_sae))

    def before_step_(self) -> None:
        """Keep the decoder's gradient orthogonal to its rows."""
        self.project_decoder_gradient_()

    @torch.no_grad()
    def after_step_(self) -> None:
        """Bring the decoder's rows back to unit norm, and thresholds to what is not negative."""
        self.normalize_decoder_()
        self.threshold.clamp_(min=0)


def jump(
    pre: Entries, threshold: Float[Tensor, " d_sae"], bandwidth: float
) -> tuple[Entries, Float[Tensor, " d_sae"]]:
    """f = pre·1[pre > θ], and on how many tokens each latent is active.

    Both are steps in θ, whose derivatives are estimated by those of a ramp as wide as the bandwidth ε:
    ∂f/∂θ = −θ/ε and ∂1[pre > θ]/∂θ = −1/ε where |pre − θ| < ε/2. The counts have no gradient in pre.

    Args:
        pre: all pre-activations above θ − ε/2.
        threshold: θ of each latent.
        bandwidth: ε.
    """
    values, counts = _Jump.apply(pre.values, threshold, bandwidth, pre.latents, pre.order, pre.starts)
    return pre.having(values), counts


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float, *where: Tensor
    ) -> tuple[Tensor, Tensor]:
        own = threshold[where[0]]
        active = pre > own
        ctx.save_for_backward(pre, own, active, *where)
        ctx.bandwidth = bandwidth
        return pre * active, totals(active.to(pre.dtype), *where[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_counts: Tensor) -> tuple[Tensor | None, ...]:
        pre, own, active, latents, order, starts = ctx.saved_tensors
        window = (pre - own).abs() < ctx.bandwidth / 2
        felt = window * (own * grad + grad_counts[latents])
        return grad * active, -totals(felt, order, starts) / ctx.bandwidth, *[None] * 4
