"""What an NFM is held against: simpler predictions of the SAE's residual, and MLPs on the same codes."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sae_nfm.models.codes import Codes, weighted_sum
from sae_nfm.models.residual import EMBED_STD, ResidualModel
from sae_nfm.settings import Count, checked

_SUPPORT_SCALE = 0.3  # of which latents are active, against how much they are


@checked
class LinearControl(nn.Module):
    """Predicts the residual x − x̂ linearly from features φ of the activation or its codes: r̂ = Wᵀ φ + b.

    It is solved exactly, so that no learning rate stands between it and its best.

    Args:
        fit_k: how many of a token's latents it is solved on, the most active ones; None is all.
        bias: whether there is b.
    """

    def __init__(self, fit_k: Count | None = None, bias: bool = True) -> None:
        super().__init__()
        self.fit_k, self.has_bias = fit_k, bias

    def build(self, d_in: int, d_sae: int) -> None:
        """Make weights and bias, once the sizes are known."""
        self.weight = nn.Parameter(torch.zeros(self.num_features(d_in, d_sae), d_in), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(d_in), requires_grad=False)

    @torch.no_grad()
    def set_(self, weight: Float[Tensor, "features d_in"], bias: Float[Tensor, " d_in"] | None) -> None:
        """Take a solution."""
        self.weight.copy_(weight)
        if bias is not None:
            self.bias.copy_(bias)

    def num_features(self, d_in: int, d_sae: int) -> int:
        """Length of φ."""
        raise NotImplementedError

    def features(self, x: Float[Tensor, "token d_in"], codes: Codes) -> Codes:
        """φ in sparse form."""
        raise NotImplementedError

    def residual(self, x: Float[Tensor, "... d_in"], codes: Codes) -> Float[Tensor, "... d_in"]:
        """r̂, all in the normaliser's units."""
        raise NotImplementedError


class OutputBias(LinearControl):
    """The mean residual: the output bias that the SAE might lack."""

    def num_features(self, d_in: int, d_sae: int) -> int:
        """None."""
        return 0

    def features(self, x: Float[Tensor, "token d_in"], codes: Codes) -> Codes:
        """None."""
        return Codes(x[:, :0], codes.indices[:, :0])

    def residual(self, x: Float[Tensor, "... d_in"], codes: Codes) -> Float[Tensor, "... d_in"]:
        """The same vector everywhere."""
        return self.bias.expand_as(x)


class DecoderRefit(LinearControl):
    """The decoder and its bias fitted anew to frozen codes: all that an NFM's linear part can do."""

    def num_features(self, d_in: int, d_sae: int) -> int:
        """One a latent."""
        return d_sae

    def features(self, x: Float[Tensor, "token d_in"], codes: Codes) -> Codes:
        """The codes."""
        return codes if self.fit_k is None else codes.strongest(self.fit_k)

    def residual(self, x: Float[Tensor, "... d_in"], codes: Codes) -> Float[Tensor, "... d_in"]:
        """What the refitted decoder adds to the SAE's own."""
        return weighted_sum(codes, self.weight) + self.bias


class AffineMap(LinearControl):
    """An affine map of the activation itself: the linearly predictable error of Engels et al. (2024)."""

    def num_features(self, d_in: int, d_sae: int) -> int:
        """One a dimension."""
        return d_in

    def features(self, x: Float[Tensor, "token d_in"], codes: Codes) -> Codes:
        """The activation."""
        return Codes(x, torch.arange(x.shape[1], device=x.device).expand_as(x))

    def residual(self, x: Float[Tensor, "... d_in"], codes: Codes) -> Float[Tensor, "... d_in"]:
        """Wᵀ x + b."""
        return x @ self.weight + self.bias


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
