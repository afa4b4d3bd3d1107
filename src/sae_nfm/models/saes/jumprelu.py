"""The JumpReLU sparse autoencoder (Rajamanoharan et al. 2024, "Jumping ahead")."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_nfm.models.saes.auxk import auxk_terms
from sae_nfm.models.saes.base import Attempt, Centre, SparseAutoencoder
from sae_nfm.models.saes.firing import Firing
from sae_nfm.settings.values import Count, NonNegative, Positive, checked


@checked
class JumpReLUSAE(SparseAutoencoder):
    """x̂ = W_dec f + b_dec with f = relu(pre)·1[pre > θ], pre = W_enc (x − b_dec) + b_enc, and a θ per latent.

    Args:
        d_in: width of the activations.
        d_sae: number of latents.
        l0: active latents per token, on average, that training aims at.
        b_dec_init: where `initialize_` puts the decoder bias.
        bandwidth: ε, the width of the window around θ in which a change of θ is felt.
        l0_coefficient: weight of (L0 / l0 − 1)² in the loss.

    Raises:
        NotAllowed: a setting is out of range.
    """

    def __init__(
        self,
        d_in: Count,
        d_sae: Count,
        l0: Positive = 32.0,
        b_dec_init: Centre = "geometric_median",
        bandwidth: Positive = 0.5,
        l0_coefficient: NonNegative = 1.0,
        through: bool = True,
        start: float = 1.0,
        auxk: Count | None = None,
        auxk_coefficient: NonNegative = 0.125,
        dead_after: Count = 20_000,
    ) -> None:
        super().__init__(d_in, d_sae, b_dec_init)
        self.l0, self.bandwidth, self.l0_coefficient = l0, bandwidth, l0_coefficient
        self.through, self.start = through, start
        self.auxk, self.auxk_coefficient, self.dead_after = auxk, auxk_coefficient, dead_after
        self.threshold = nn.Parameter(torch.zeros(d_sae))

    def latents(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_sae"]:
        """The pre-activations above θ, and 0."""
        pre = self.pre_activations(x)
        return torch.where(pre > self.threshold, pre.relu(), 0)

    def attempt(self, x: Float[Tensor, "token d_in"], firing: Firing) -> Attempt:
        """The reconstruction, and the distance of L0 from its target."""
        pre = self.pre_activations(x)
        f, l0 = jump(pre, self.threshold, self.bandwidth, self.through)
        reconstruction = torch.addmm(self.b_dec, f, self.W_dec)
        terms = {"sparsity": self.l0_coefficient * (l0 / self.l0 - 1).pow(2)}
        dead = firing.silent_for(self.dead_after)
        terms |= auxk_terms(self, x, reconstruction, dead, self.auxk, self.auxk_coefficient)
        return Attempt(reconstruction, (f > 0).any(0), l0.detach(), terms)

    @torch.no_grad()
    def initialize_(self, sample: Float[Tensor, "token d_in"]) -> None:
        self._centre_(sample)
        pre = self.pre_activations(sample[:4096])
        number = int(self.start * self.l0 * len(pre))
        self.threshold.fill_(pre.flatten().kthvalue(pre.numel() - number).values)
        before = self.W_enc_rows[0].norm()
        super().initialize_(sample)
        self.threshold.mul_(self.W_enc_rows[0].norm() / before)

    def before_step_(self) -> None:
        """Keep the decoder's gradient orthogonal to its rows."""
        self.project_decoder_gradient_()

    def after_step_(self) -> None:
        """Bring the decoder's rows back to unit norm, and thresholds back to what is not negative."""
        self.normalize_decoder_()
        with torch.no_grad():
            self.threshold.clamp_(min=0)


def jump(pre, threshold, bandwidth, through):
    """f and mean L0."""
    return _Jump.apply(pre, threshold, bandwidth, through)


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pre, threshold, bandwidth, through):  # noqa: ANN001
        active = pre > threshold
        f = torch.where(active, pre, 0)
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth, ctx.through = bandwidth, through
        return f, active.sum() / len(pre)

    @staticmethod
    def backward(ctx, grad, grad_l0):  # noqa: ANN001
        pre, threshold = ctx.saved_tensors
        window = ((pre - threshold).abs() < ctx.bandwidth / 2).to(pre.dtype) / ctx.bandwidth
        per = grad_l0 / len(pre)
        grad_threshold = -(threshold * (window * grad).sum(0) + per * window.sum(0))
        grad_pre = grad * (pre > threshold)
        if ctx.through:
            grad_pre = grad_pre + per * window
        return grad_pre, grad_threshold, None, None
