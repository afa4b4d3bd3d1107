"""The map between the model's activations and the units that dictionaries are trained in."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from sae_nfm.settings.values import NotAllowed

NormalizerKind = Literal["scalar", "per_dimension", "none"]
KINDS = ("scalar", "per_dimension", "none")
PublishedKind = Literal["scalar", "per_dimension", "none", "token_norm", "layer_norm"]
_LAYER_NORM_EPS = 1e-5  # as SAELens and OpenAI add it on the way in, and not on the way out


class Units(NamedTuple):
    """What takes activations to a dictionary's units and back: one for all tokens, or one for each."""

    shift: Float[Tensor, "*#token #d_in"]
    scale: Float[Tensor, "*#token #d_in"]
    back: Float[Tensor, "*#token #d_in"]
    """The scale on the way back; another one in `layer_norm` alone."""

    def at(self, tokens: Int64[Tensor, " token"]) -> "Units":
        """The units of some of the tokens."""
        return Units(*(part[tokens] if part.dim() > 1 else part for part in self))

    def of(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_in"]:
        """Model units to dictionary units, in the buffers' precision."""
        return (x.to(self.scale.dtype) - self.shift) / self.scale

    def inverse(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_in"]:
        """Dictionary units to model units, for a point."""
        return x * self.back + self.shift

    def inverse_difference(self, r: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_in"]:
        """Dictionary units to model units, for a difference of points such as a residual."""
        return r * self.back


class Normalizer(nn.Module):
    """x ↦ (x − shift) / scale, stored with the weights and inverted at the splice.

    Args:
        d_in: width of the activations.
        kind: `scalar` divides by one number, so that E‖x‖² = d_in; `per_dimension` gives every coordinate
            mean 0 and variance 1, but for those that are constant; `none` leaves activations as they are. Of
            published SAEs alone: `token_norm` gives every token the norm √d_in, `layer_norm` mean 0 and
            variance 1 over its coordinates.
    """

    mean: Float[Tensor, " d_in"]
    scale: Float[Tensor, " d_in"]

    def __init__(self, d_in: int, kind: PublishedKind = "scalar") -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("mean", torch.zeros(d_in))
        self.register_buffer("scale", torch.ones(d_in))

    @torch.no_grad()
    def fit(self, sample: Float[Tensor, "token d_in"]) -> None:
        """Set mean and scale from a sample of training activations.

        Raises:
            NotAllowed: `kind` is none that is fitted.
        """
        sample = sample.double()
        if self.kind == "scalar":
            self.scale.fill_(sample.pow(2).mean().sqrt())
        elif self.kind == "per_dimension":
            self.mean.copy_(sample.mean(0))
            deviation = sample.std(0)
            varies = deviation > 1e-6 * deviation.max()  # what is constant but for rounding stays so small
            self.scale.copy_(torch.where(varies, deviation, deviation.max().clamp_min(1e-6)))
        elif self.kind != "none":
            raise NotAllowed("normalizer", self.kind, KINDS)

    def units(self, x: Float[Tensor, "... d_in"]) -> Units:
        """The units of these tokens."""
        if self.kind == "token_norm":
            scale = x.to(self.scale.dtype).norm(dim=-1, keepdim=True) / len(self.scale) ** 0.5
            return Units(torch.zeros_like(scale), scale, scale)
        if self.kind == "layer_norm":
            x = x.to(self.scale.dtype)
            deviation = x.std(dim=-1, keepdim=True)
            return Units(x.mean(dim=-1, keepdim=True), deviation + _LAYER_NORM_EPS, deviation)
        return Units(self.mean, self.scale, self.scale)

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_in"]:
        """Model units to dictionary units."""
        return self.units(x).of(x)
