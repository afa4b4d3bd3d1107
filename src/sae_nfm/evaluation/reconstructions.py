"""What an activation is replaced by: reconstructions of it, made from the activation and its parts alone."""

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_nfm.baselines.spliceable import Spliceable
from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.residuals.linear import DecoderRefit, LinearControl
from sae_nfm.models.residuals.mlp import CodesMLP
from sae_nfm.settings.values import Count, checked


class Reconstruction(Protocol):
    """Makes a replacement from the activation and its parts alone."""

    role: str
    """What it stands for among the conditions, whatever its name: what headlines are found by."""

    def __call__(self, batch: Spliceable) -> Float[Tensor, "block pos d_model"]:
        """The replacement of every position."""
        ...


class Identity:
    """The activation itself: the KL of this condition is what rounding alone makes of the suffix."""

    role = "identity"

    def __call__(self, batch: Spliceable) -> Float[Tensor, "block pos d_model"]:
        """What was there."""
        return batch.x


_OF_PARTS = {
    frozenset(): "sae",
    frozenset({"linear"}): "linear",
    frozenset({"interaction"}): "interaction",
}


@checked
class FromParts:
    """The SAE's reconstruction plus some of the NFM's parts.

    Args:
        add: `linear`, `interaction`, both or none of them.
    """

    def __init__(self, add: Sequence[Literal["linear", "interaction"]]) -> None:
        self.add = tuple(add)
        self.role = _OF_PARTS.get(frozenset(add), "nfm")

    def __call__(self, batch: Spliceable) -> Float[Tensor, "block pos d_model"]:
        """x̂ and the parts asked for."""
        out = batch.parts.sae
        for name in self.add:
            part = getattr(batch.parts, name)
            assert part is not None
            out = out + part
        return out


class Corrected:
    """The SAE's reconstruction plus what a control, made before the evaluation, predicts of its residual."""

    role: str
    control: LinearControl | CodesMLP | None
    autoencoder: Autoencoder | None = None

    def __call__(self, batch: Spliceable) -> Float[Tensor, "block pos d_model"]:
        """x̂ and the control's correction."""
        assert self.autoencoder is not None
        assert self.control is not None
        explained = batch.parts.explained
        correction = self.control.residual(explained.target, explained.codes)
        return batch.parts.sae + explained.units.inverse_difference(correction)


class FromControl(Corrected):
    """Corrected by a linear control.

    Args:
        control: predicts the residual; the study solves it.
    """

    control: LinearControl

    def __init__(self, control: LinearControl) -> None:
        self.control = control
        self.role = "refit" if isinstance(control, DecoderRefit) else "control"


@checked
class FromMLP(Corrected):
    """Corrected by an MLP on the codes.

    Args:
        d_hidden: hidden units; None is as many as give the NFM's number of parameters.
        support: whether it also reads which latents are active.
        rounds: on how many times the NFM's tokens it is trained.

    Raises:
        NotAllowed: a number is out of range.
    """

    def __init__(self, d_hidden: Count | None, support: bool, rounds: Count) -> None:
        self.d_hidden, self.support, self.rounds = d_hidden, support, rounds
        self.control = None
        self.role = "codes_bound" if support else "control"


class WideSAE:
    """A wider SAE alone, with as many parameters as SAE and NFM together, the same k and the same tokens."""

    role = "control"

    def __init__(self) -> None:
        self.autoencoder: Autoencoder | None = None

    def __call__(self, batch: Spliceable) -> Float[Tensor, "block pos d_model"]:
        """The wider SAE's x̂."""
        assert self.autoencoder is not None
        return self.autoencoder(batch.x).sae


class Planted:
    """The SAE's reconstruction plus exactly what was planted: the best that any model of the codes can do."""

    role = "planted"

    def __call__(self, batch: Spliceable) -> Float[Tensor, "block pos d_model"]:
        """x̂ and the planted part."""
        assert batch.parts.planted is not None
        return batch.parts.sae + batch.parts.planted


class Zero:
    """The zero vector."""

    role = "zero"

    def __call__(self, batch: Spliceable) -> Float[Tensor, "block pos d_model"]:
        """Nothing at all."""
        return torch.zeros_like(batch.x)


class Mean:
    """The mean training activation."""

    role = "mean"

    def __call__(self, batch: Spliceable) -> Float[Tensor, "block pos d_model"]:
        """The same vector everywhere."""
        assert batch.surroundings is not None
        return batch.surroundings.mean.expand_as(batch.x)


def modules(reconstruction: Reconstruction) -> list[nn.Module]:
    """The trained modules that a reconstruction calls, which have to be on the evaluation's device."""
    found = (getattr(reconstruction, name, None) for name in ("control", "autoencoder"))
    return [module for module in found if isinstance(module, nn.Module)]
