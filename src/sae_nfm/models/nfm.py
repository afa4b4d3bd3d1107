"""The neural factorization machine over sparse codes (He & Chua 2017; higher orders: Blondel et al. 2016)."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_nfm.models.codes import Codes, weighted_sum


class NFMOutput(NamedTuple):
    """The two parts of the predicted residual; a part that is switched off is exactly 0."""

    linear: Float[Tensor, "... d_out"]
    """W_lin f + b."""
    interaction: Float[Tensor, "... d_out"]
    """MLP([e_2(f), …, e_order(f)])."""

    @property
    def total(self) -> Float[Tensor, "... d_out"]:
        """r̂ = linear + interaction."""
        return self.linear + self.interaction


class NeuralFactorizationMachine(nn.Module):
    """r̂ = W_lin f + b + MLP([e_2(f), …, e_o(f)]), from the active latents alone.

    e_j is the elementary symmetric polynomial of degree j of the vectors f_i v_i, elementwise in ℝ^d_embed.

    Args:
        d_sae: number of latents.
        d_out: width of the residual.
        order: highest interaction order o, 1 to 4; 1 has no interaction path.
        d_embed: width m of the embeddings v_i.
        linear: whether there is W_lin f.
        bias: whether there is the output bias b, which counts to the linear part.
        interaction: whether there is an interaction part.
        mlp: whether the pooled interactions pass a hidden ReLU layer of width m, or one linear map.
        dropout: applied to the pooled interactions in training.
        fit: whether both parts are trained together, or the linear part first and the interactions on what it
            leaves, which settles which part explains what.
        fit_k: in training only so many of a token's latents are read, the most active ones; None is all, as
            at the splice.

    Raises:
        ValueError: a size is out of range, or the switches leave nothing to train.
    """

    def __init__(
        self,
        d_sae: int,
        d_out: int,
        order: int,
        d_embed: int,
        linear: bool,
        bias: bool,
        interaction: bool,
        mlp: bool,
        dropout: float,
        fit: Literal["together", "linear_then_interaction"],
        fit_k: int | None,
    ) -> None:
        super().__init__()
        _check_sizes(order, d_embed, dropout, fit_k)
        _check_switches(order, linear, bias, interaction, fit)
        self.order, self.d_out, self.fit, self.fit_k = order, d_out, fit, fit_k
        self.has_interaction = interaction and order > 1
        self.W_lin = nn.Parameter(torch.zeros(d_sae, d_out)) if linear else None
        self.b = nn.Parameter(torch.zeros(d_out)) if bias else None
        if self.has_interaction:
            self.V = nn.Parameter(torch.randn(d_sae, d_embed) / d_embed**0.5)
            self.mlp = _mlp((order - 1) * d_embed, d_embed, d_out, hidden=mlp, dropout=dropout)

    def forward(self, codes: Codes) -> NFMOutput:
        """Predict the residual x − x̂ in the units that the codes were computed in."""
        if self.training and self.fit_k is not None:
            codes = codes.strongest(self.fit_k)
        zero = codes.values.new_zeros(*codes.values.shape[:-1], self.d_out)
        linear = zero if self.W_lin is None else weighted_sum(codes, self.W_lin)
        linear = linear if self.b is None else linear + self.b
        return NFMOutput(linear, self.mlp(self.pool(codes)) if self.has_interaction else zero)

    def pool(self, codes: Codes) -> Float[Tensor, "... pooled"]:
        """[e_2, …, e_order] side by side, `pooled` = (order − 1) · d_embed."""
        power_sums = [
            weighted_sum(Codes(codes.values**j, codes.indices), self.V**j) for j in range(1, self.order + 1)
        ]
        return torch.cat(elementary_symmetric(power_sums)[1:], dim=-1)


def elementary_symmetric(power_sums: list[Float[Tensor, "..."]]) -> list[Float[Tensor, "..."]]:
    """e_1 … e_o from the power sums p_1 … p_o by Newton's identities, j e_j = Σ_i (−1)^(i−1) e_(j−i) p_i."""
    symmetric = [torch.ones_like(power_sums[0])]
    for j in range(1, len(power_sums) + 1):
        terms = [(-1) ** (i - 1) * symmetric[j - i] * power_sums[i - 1] for i in range(1, j + 1)]
        symmetric.append(torch.stack(terms).sum(0) / j)
    return symmetric[1:]


def _mlp(d_in: int, d_hidden: int, d_out: int, *, hidden: bool, dropout: float) -> nn.Sequential:
    if not hidden:
        return nn.Sequential(nn.Dropout(dropout), nn.Linear(d_in, d_out))
    return nn.Sequential(
        nn.Dropout(dropout), nn.Linear(d_in, d_hidden), nn.ReLU(), nn.Linear(d_hidden, d_out)
    )


def _check_sizes(order: int, d_embed: int, dropout: float, fit_k: int | None) -> None:
    if order not in (1, 2, 3, 4):
        raise ValueError(f"nfm.order={order}: allowed are 1, 2, 3, 4")
    if d_embed < 1:
        raise ValueError(f"nfm.d_embed={d_embed}: allowed are whole numbers from 1")
    if not 0 <= dropout < 1:
        raise ValueError(f"nfm.dropout={dropout}: allowed are 0 up to, but without, 1")
    if fit_k is not None and fit_k < 1:
        raise ValueError(f"nfm.fit_k={fit_k}: allowed are null and whole numbers from 1")


def _check_switches(order: int, linear: bool, bias: bool, interaction: bool, fit: str) -> None:
    if fit not in ("together", "linear_then_interaction"):
        raise ValueError(f"nfm.fit={fit}: allowed are together, linear_then_interaction")
    if not linear and not bias and (order == 1 or not interaction):
        raise ValueError(
            f"nfm.linear=false and nfm.bias=false with nfm.interaction={str(interaction).lower()} and "
            f"nfm.order={order} leave nothing to train; allowed are nfm.linear=true, nfm.bias=true, or "
            "nfm.interaction=true with nfm.order of 2 to 4"
        )
