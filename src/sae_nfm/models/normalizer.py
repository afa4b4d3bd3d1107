"""The affine map between the model's activations and the units that dictionaries are trained in."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_nfm.settings import NotAllowed

NormalizerKind = Literal["scalar", "per_dimension", "none"]
KINDS = ("scalar", "per_dimension", "none")


class Normalizer(nn.Module):
    """x ↦ (x − mean) / scale, stored with the weights and inverted at the splice.

    Args:
        d_in: width of the activations.
    """

    mean: Float[Tensor, " d_in"]
    scale: Float[Tensor, " d_in"]

    def __init__(self, d_in: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(d_in))
        self.register_buffer("scale", torch.ones(d_in))

    @torch.no_grad()
    def fit(self, sample: Float[Tensor, "token d_in"], kind: NormalizerKind) -> None:
        """Set mean and scale from a sample of training activations.

        `scalar` divides by one number so that E‖x‖² = d_in; `per_dimension` gives every coordinate mean 0 and
        variance 1, but for those that are constant; `none` leaves activations as they are.

        Raises:
            NotAllowed: `kind` is none of these.
        """
        sample = sample.double()
        if kind == "scalar":
            self.scale.fill_(sample.pow(2).mean().sqrt())
        elif kind == "per_dimension":
            self.mean.copy_(sample.mean(0))
            deviation = sample.std(0)
            varies = (
                deviation > 1e-6 * deviation.max()
            )  # what is constant but for rounding stays as small as it is
            self.scale.copy_(torch.where(varies, deviation, deviation.max().clamp_min(1e-6)))
        elif kind != "none":
            raise NotAllowed("normalizer", kind, KINDS)

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_in"]:
        """Model units to dictionary units, in the buffers' precision."""
        return (x.to(self.scale.dtype) - self.mean) / self.scale

    def inverse(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_in"]:
        """Dictionary units to model units, for a point."""
        return x * self.scale + self.mean

    def inverse_difference(self, r: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_in"]:
        """Dictionary units to model units, for a difference of points such as a residual."""
        return r * self.scale
