"""The neural factorization machine over sparse codes (He & Chua 2017; higher orders: Blondel et al. 2016)."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from sae_nfm.models.codes import Codes
from sae_nfm.models.residuals.base import ResidualModel
from sae_nfm.models.symmetric import elementary_symmetric_sums
from sae_nfm.settings.values import Count, NotAllowed, Positive, checked

REFERENCE_WIDTH = 64
"""The output map is multiplied by this over `d_embed`, so that an Adam step moves the output equally far at
every width (the μP rule for output weights, Yang & Hu 2021)."""


@checked
class NeuralFactorizationMachine(ResidualModel):
    """r̂ = W_lin f + b + W_out φ + b_out, φ = [e_2(f)/σ_2, …, e_o(f)/σ_o], from the active latents alone.

    e_j is the elementary symmetric polynomial of degree j of the vectors f_i v_i, elementwise in ℝ^d_embed.
    σ_j is its standard deviation over a sample at the start, times 4^(j−2), so that every order begins
    at its own scale whatever that of the codes is, the lower ones ahead; it is stored with the weights. The
    output map starts at 0: an untrained interaction part corrects nothing, and has nothing to unlearn. With
    `mlp` a hidden ReLU layer stands between φ and the output.

    Args:
        d_sae: number of latents.
        d_out: width of the residual.
        order: highest interaction order o, 1 to 4; 1 has no interaction path.
        d_embed: width m of the embeddings v_i.
        embed_std: their standard deviation at the start. Pooled interactions are scaled by σ_j, so that it
            only says how fast Adam's steps change the embeddings, next to the output map.
        linear: whether there is W_lin f.
        bias: whether there is the output bias b, which counts to the linear part.
        interaction: whether there is an interaction part.
        mlp: whether the pooled interactions pass a hidden ReLU layer of width m, or one linear map.
        dropout: applied to the pooled interactions in training.
        fit: whether both parts are trained together, or the linear part is solved and the interactions are
            trained on what it leaves, which settles which part explains what.
        fit_k: in training only so many of a token's latents are read, the most active ones; None is all, as
            at the splice.

    Raises:
        NotAllowed: a size is out of range, or the switches leave nothing to train.
    """

    sums_over_sets = True
    """Whether what is pooled is a sum over sets of different latents."""
    pool_scale: Float[Tensor, " pooled"]

    def __init__(
        self,
        d_sae: Count,
        d_out: Count,
        order: Annotated[int, Field(ge=1, le=4, description="1, 2, 3, 4")],
        d_embed: Count,
        embed_std: Positive,
        linear: bool,
        bias: bool,
        interaction: bool,
        mlp: bool,
        dropout: Annotated[float, Field(ge=0, lt=1, description="0 up to, but without, 1")],
        fit: Literal["together", "linear_then_interaction"],
        fit_k: Count | None,
    ) -> None:
        _check_switches(order, linear, bias, interaction)
        super().__init__(d_sae, d_out, linear, bias, fit_k)
        self.order, self.d_embed, self.fit = order, d_embed, fit
        self.has_interaction = interaction and order > 1
        if self.has_interaction:
            pooled = (order - 1) * d_embed
            self.V = nn.Parameter(embed_std * torch.randn(d_sae, d_embed))
            self.register_buffer("pool_scale", torch.ones(pooled))
            self.head = _Head(pooled, d_embed, d_out, mlp, dropout)

    @torch.no_grad()
    def initialize_(self, codes: Codes) -> None:
        """Set the scale of every order from a sample of the codes that will be trained on."""
        if not self.has_interaction:
            return
        pooled = self.pool(codes).unflatten(-1, (self.order - 1, self.d_embed))
        deviation = pooled.double().flatten(0, -3).var(0, unbiased=False).mean(-1).sqrt()
        ahead = 4.0 ** torch.arange(self.order - 1, device=deviation.device)
        scale = torch.where(deviation > 0, 1 / (ahead * deviation), 0)  # 0: too few latents for this order
        self.pool_scale.copy_(scale.repeat_interleave(self.d_embed))

    def interaction(self, codes: Codes) -> Float[Tensor, "... d_out"]:
        """W_out φ + b_out."""
        return self.head(self.pool(codes) * self.pool_scale)

    def pool(self, codes: Codes) -> Float[Tensor, "... pooled"]:
        """[e_2, …, e_order] side by side, unscaled, `pooled` = (order − 1) · d_embed."""
        return elementary_symmetric_sums(codes, self.V, self.order).flatten(-2)


class _Head(nn.Module):
    """Pooled interactions → their part of the residual; 0 until it is trained."""

    def __init__(self, pooled: int, d_embed: int, d_out: int, hidden: bool, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(pooled, d_embed) if hidden else None
        self.W_out = nn.Parameter(torch.zeros(d_embed if hidden else pooled, d_out))
        self.b_out = nn.Parameter(torch.zeros(d_out))
        self.width_factor = REFERENCE_WIDTH / d_embed

    def forward(self, features: Float[Tensor, "... pooled"]) -> Float[Tensor, "... d_out"]:
        features = self.dropout(features)
        if self.hidden is not None:
            features = torch.relu(self.hidden(features))
        return F.linear(features, (self.width_factor * self.W_out).t(), self.b_out)


def _check_switches(order: int, linear: bool, bias: bool, interaction: bool) -> None:
    if not linear and not bias and (order == 1 or not interaction):
        raise NotAllowed(
            "interaction",
            interaction,
            "linear=true, bias=true, or interaction=true with an order of 2 to 4",
            f"with linear=false, bias=false and order={order} nothing is left to train",
        )
