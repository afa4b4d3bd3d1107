"""An MLP on the codes: what a model without any factorisation makes of them."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sae_nfm.models.codes import Codes, weighted_sum
from sae_nfm.models.residuals.base import EMBED_STD, ResidualModel
from sae_nfm.settings.values import Count, checked

_SUPPORT_SCALE = 0.3  # of which latents are active, against how much they are


@checked
class CodesMLP(ResidualModel):
    """An MLP on the codes beside a solved linear part: r̂ = W_lin f + b + W_2 gelu(W_1 f + b_1) + b_2.

    With `support` the hidden layer also reads which latents are active, W_s 1[f > 0]: a TopK code jumps where
    its support changes, which a function of the values alone is slow to learn.

    Args:
        d_sae: number of latents.
        d_out: width of the residual.
        d_hidden: hidden units.
        support: whether it reads which latents are active.
    """

    code_scale: Float[Tensor, ""]
    support_scale: Float[Tensor, ""]

    def __init__(self, d_sae: Count, d_out: Count, d_hidden: Count, support: bool) -> None:
        super().__init__(d_sae, d_out, linear=True, bias=True, fit_k=None)
        self.W_1 = nn.Parameter(EMBED_STD * torch.randn(d_sae, d_hidden))
        self.W_support = nn.Parameter(EMBED_STD * torch.randn(d_sae, d_hidden)) if support else None
        self.b_1 = nn.Parameter(torch.zeros(d_hidden))
        self.W_2 = nn.Parameter(torch.zeros(d_hidden, d_out))
        self.b_2 = nn.Parameter(torch.zeros(d_out))
        self.width_factor = 256 / d_hidden
        self.register_buffer("code_scale", torch.ones(()))
        self.register_buffer("support_scale", torch.ones(()))

    @staticmethod
    def hidden_for(num_parameters: int, d_sae: int, d_out: int, support: bool) -> int:
        """How many hidden units give a model of about `num_parameters`, its linear part included."""
        fixed, each = (d_sae + 2) * d_out, d_sae * (1 + support) + d_out + 1
        return max(1, round((num_parameters - fixed) / each))

    @torch.no_grad()
    def initialize_(self, codes: Codes) -> None:
        """Scale the codes so that hidden units start at unit variance."""
        l0 = (codes.values > 0).sum(-1).double().mean()
        self.code_scale.copy_(1 / (EMBED_STD * codes.values.pow(2).sum(-1).mean().sqrt()))
        self.support_scale.copy_(_SUPPORT_SCALE / (EMBED_STD * l0.sqrt()))

    def interaction(self, codes: Codes) -> Float[Tensor, "... d_out"]:
        """W_2 gelu(…) + b_2."""
        hidden = self.code_scale * weighted_sum(codes, self.W_1) + self.b_1
        if self.W_support is not None:
            active = Codes((codes.values > 0).to(codes.values.dtype), codes.indices)
            hidden = hidden + self.support_scale * weighted_sum(active, self.W_support)
        return self.width_factor * (F.gelu(hidden) @ self.W_2) + self.b_2
