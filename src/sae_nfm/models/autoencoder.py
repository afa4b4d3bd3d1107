"""Normaliser, SAE and NFM as one thing, from model activations to model activations."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_nfm.models.codes import Codes
from sae_nfm.models.normalizer import Normalizer, Units
from sae_nfm.models.plant import Plant
from sae_nfm.models.residuals.base import ResidualModel
from sae_nfm.models.saes.base import SparseAutoencoder


class Explained(NamedTuple):
    """A reconstruction and its target in the normaliser's units."""

    codes: Codes
    decoded: Float[Tensor, "... d_in"]
    target: Float[Tensor, "... d_in"]
    planted: Float[Tensor, "... d_in"] | None
    units: Units
    """What takes all of them back to the model's."""


class Parts(NamedTuple):
    """What the dictionaries make of an activation, in the model's units."""

    x: Float[Tensor, "... d_in"]
    """The activation that the parts explain: the given one, or the planted one where something is planted."""
    codes: Codes
    sae: Float[Tensor, "... d_in"]
    """The SAE's reconstruction x̂."""
    linear: Float[Tensor, "... d_in"] | None
    """The NFM's linear part of the residual; None without an NFM."""
    interaction: Float[Tensor, "... d_in"] | None
    """The NFM's interaction part of the residual; None without an NFM."""
    planted: Float[Tensor, "... d_in"] | None
    """What was planted, without its noise; None where nothing is."""
    explained: Explained
    """What other models of the residual start from."""

    def reconstruction(self, add: Iterable[Literal["linear", "interaction"]]) -> Float[Tensor, "... d_in"]:
        """x̂ and parts of the NFM, added in the order in which they are named."""
        out = self.sae
        for name in add:
            part = getattr(self, name)
            assert part is not None
            out = out + part
        return out

    @property
    def whole(self) -> Float[Tensor, "... d_in"]:
        """x̂ and all that there is of the NFM."""
        return self.reconstruction(() if self.linear is None else ("linear", "interaction"))


class Autoencoder(nn.Module):
    """The one implementation of a reconstruction: training, validation and the splice all call it.

    Args:
        normalizer: fitted on training activations.
        sae: of any family; works in the normaliser's units.
        nfm: predicts the SAE's residual in the same units; None for an SAE alone.
        plant: replaces the SAE's residual by a known one; None leaves activations as they are.
    """

    def __init__(
        self,
        normalizer: Normalizer,
        sae: SparseAutoencoder,
        nfm: ResidualModel | None = None,
        plant: Plant | None = None,
    ) -> None:
        super().__init__()
        self.normalizer, self.sae, self.nfm, self.plant = normalizer, sae, nfm, plant

    def initialize_sae_(self, x: Float[Tensor, "token d_in"]) -> None:
        """Fit the normaliser, and what of the SAE is not random, to a sample of activations."""
        self.normalizer.fit(x)
        self.sae.initialize_(self.normalizer(x))

    @torch.no_grad()
    def initialize_nfm_(self, codes: Codes) -> None:
        """Fit the scales of the model of the residual to codes as it reads them in training."""
        assert self.nfm is not None
        self.nfm.initialize_(self.nfm.read(codes))

    @torch.no_grad()
    def codes(self, x: Float[Tensor, "token d_in"]) -> Codes:
        """The SAE's codes of activations."""
        return self.explain(x).codes

    def forward(self, x: Float[Tensor, "... d_in"]) -> Parts:
        """Reconstruct activations in the model's units."""
        return self.parts(x, self.explain(x))

    def parts(self, x: Float[Tensor, "... d_in"], explained: Explained) -> Parts:
        """The same of activations that the SAE has explained."""
        codes, decoded, target, planted, units = explained
        residual = None if self.nfm is None else self.nfm(codes)
        to_model = units.inverse_difference
        return Parts(
            x=x if self.plant is None else units.inverse(target),
            codes=codes,
            sae=units.inverse(decoded),
            linear=None if residual is None else to_model(residual.linear),
            interaction=None if residual is None else to_model(residual.interaction),
            planted=None if planted is None else to_model(planted),
            explained=explained,
        )

    def explain(self, x: Float[Tensor, "... d_in"]) -> Explained:
        """Codes, decoded codes and what they are to explain, in the normaliser's units."""
        units = self.normalizer.units(x)
        target = units.of(x)
        codes = self.sae.encode(target)
        decoded = self.sae.decode(codes)
        if self.plant is None:
            return Explained(codes, decoded, target, None, units)
        planted = self.plant.planted(codes, self.sae.d_sae)
        target = decoded + planted + self.plant.unexplained(target)
        return Explained(codes, decoded, target, planted, units)
