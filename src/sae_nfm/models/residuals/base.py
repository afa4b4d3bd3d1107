"""What every model of an SAE's residual has: a linear part over the codes, and one that is not linear."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_nfm.models.codes import Codes, weighted_sum

EMBED_STD = 0.03
"""Of weights that read codes, at their start: relative to it, Adam's steps of 3e-3 are a tenth."""


class ResidualParts(NamedTuple):
    """The two parts of a predicted residual; a part that is switched off is exactly 0."""

    linear: Float[Tensor, "... d_out"]
    """W_lin f + b."""
    interaction: Float[Tensor, "... d_out"]
    """What is not linear in the codes."""

    @property
    def total(self) -> Float[Tensor, "... d_out"]:
        """r̂ = linear + interaction."""
        return self.linear + self.interaction


class ResidualModel(nn.Module):
    """r̂ = W_lin f + b + interaction(f) of the residual r = x − x̂, in the units of the codes.

    The linear part is best solved (`set_linear_`), and the interactions, which start at exactly 0, trained on
    what it leaves. A subclass says what the interactions are.

    Args:
        d_sae: number of latents.
        d_out: width of the residual.
        linear: whether there is W_lin f.
        bias: whether there is the bias b.
        fit_k: in training only so many of a token's latents are read, the most active ones; None is all.
    """

    has_interaction = True
    reads: tuple[str, ...] = ()
    """Settings that name files, which say what the model is."""
    fit: Literal["together", "linear_then_interaction"] = "linear_then_interaction"

    def __init__(self, d_sae: int, d_out: int, linear: bool, bias: bool, fit_k: int | None) -> None:
        super().__init__()
        self.d_sae, self.d_out, self.fit_k = d_sae, d_out, fit_k
        self.W_lin = nn.Parameter(torch.zeros(d_sae, d_out)) if linear else None
        self.b = nn.Parameter(torch.zeros(d_out)) if bias else None

    def initialize_(self, codes: Codes) -> None:
        """Fit scales to a sample of the codes that are read in training."""

    def interaction(self, codes: Codes) -> Float[Tensor, "... d_out"]:
        """What the model adds to its linear part."""
        raise NotImplementedError

    def forward(self, codes: Codes) -> ResidualParts:
        """Predict the residual."""
        codes = self.read(codes) if self.training else codes
        zero = codes.values.new_zeros(*codes.values.shape[:-1], self.d_out)
        linear = zero if self.W_lin is None else weighted_sum(codes, self.W_lin)
        linear = linear if self.b is None else linear + self.b
        return ResidualParts(linear, self.interaction(codes) if self.has_interaction else zero)

    def residual(self, x: Float[Tensor, "... d_in"], codes: Codes) -> Float[Tensor, "... d_in"]:
        """r̂; the activation itself is not read."""
        return self(codes).total

    def read(self, codes: Codes) -> Codes:
        """The codes as training sees them."""
        return codes if self.fit_k is None else codes.strongest(self.fit_k)

    @torch.no_grad()
    def set_linear_(
        self, weight: Float[Tensor, "features d_out"], bias: Float[Tensor, " d_out"] | None
    ) -> None:
        """Set the linear part to a solution, and keep it there when the interactions are trained."""
        for parameter, value in ((self.W_lin, weight), (self.b, bias)):
            if parameter is not None and value is not None:
                parameter.copy_(value)
                parameter.requires_grad_(False)
