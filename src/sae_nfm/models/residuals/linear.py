"""Predictions of the SAE's residual that are linear in features, and so solved exactly."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_nfm.models.codes import Codes, weighted_sum
from sae_nfm.settings.values import Count, checked

_PLAIN = (bool, int, float, str, type(None))


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

    solves_every_latent = False
    """Whether there is a row to solve for each latent."""

    def settings(self) -> dict[str, Any]:
        """Which class it is of, and every setting that it keeps: what determines its solution."""
        kept = {name: value for name, value in vars(self).items() if isinstance(value, _PLAIN)}
        kept = {name: value for name, value in kept.items() if not name.startswith("_")}
        del kept["training"]  # torch's own, and no setting
        return {"control": f"{type(self).__module__}.{type(self).__qualname__}", **kept}

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

    solves_every_latent = True

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
        return x @ self.weight.to(x.dtype) + self.bias
