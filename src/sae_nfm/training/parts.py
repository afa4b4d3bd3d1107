"""The parts of a dictionary, any of which can be trained."""

from collections.abc import Collection
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.normalizer import Units
from sae_nfm.models.saes.base import Attempt
from sae_nfm.models.saes.firing import Firing

Part = Literal["sae", "linear", "interaction"]
PARTS: tuple[Part, ...] = ("sae", "linear", "interaction")


class Made(NamedTuple):
    """What a dictionary in training makes of a batch, in the normaliser's units."""

    target: Float[Tensor, "token d_in"]
    reconstruction: Float[Tensor, "token d_in"]
    """x̂ + r̂, or x̂ where there is no NFM."""
    units: Units
    attempt: Attempt | None
    """The SAE's, where it is trained."""


def train_only(autoencoder: Autoencoder, parts: Collection[Part]) -> None:
    """Freeze everything but some parts."""
    autoencoder.sae.requires_grad_("sae" in parts)
    if autoencoder.nfm is not None:
        autoencoder.nfm.requires_grad_("interaction" in parts)
        for parameter in (autoencoder.nfm.W_lin, autoencoder.nfm.b):
            if parameter is not None:
                parameter.requires_grad_("linear" in parts)


def make(
    autoencoder: Autoencoder, x: Float[Tensor, "token d_in"], parts: Collection[Part], firing: Firing
) -> Made:
    """What the whole dictionary makes of activations, with the gradient of the parts that are trained."""
    if "sae" in parts:
        units = autoencoder.normalizer.units(x)
        target = units.of(x)
        attempt = autoencoder.sae.attempt(target, firing)
        decoded, codes = attempt.reconstruction, None if autoencoder.nfm is None else attempt.codes()
    else:
        with torch.no_grad():
            codes, decoded, target, _, units = autoencoder.explain(x)
        attempt = None
    if autoencoder.nfm is not None and codes is not None:
        decoded = decoded + autoencoder.nfm(codes).total
    return Made(target, decoded, units, attempt)
