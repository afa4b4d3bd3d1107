"""What all recipes of a study share."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.residuals.linear import LinearControl
from sae_nfm.recipes.activations import SiteActivations
from sae_nfm.training.parts import Part


@dataclass(frozen=True)
class Demand:
    """What making something takes.

    Args:
        tokens: that are read, those of validations left out.
        saved: bytes of what is kept.
        autoencoder: of the shapes of what is trained, or read; None where there is none.
        parts: of it that are trained.
        through_model: whether every token goes on to the model's predictions, and back.
        solved: what a least-squares problem is solved for, built; None where none is.
    """

    tokens: int
    saved: int
    autoencoder: Autoencoder | None = None
    parts: frozenset[Part] = frozenset()
    through_model: bool = False
    solved: LinearControl | None = None

    @property
    def reads_kept(self) -> bool:
        """Whether it reads the activations that a study may keep on disk; others are computed each time."""
        return not self.through_model and (bool(self.parts) or self.solved is not None)


def size_of(module: nn.Module) -> int:
    """Bytes of a module's weights."""
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


class OfASite:
    """A recipe for something that belongs to the activations of a site.

    Args:
        activations: of the site.
    """

    together = False

    def __init__(self, activations: SiteActivations) -> None:
        self.activations = activations

    def about(self) -> dict[str, Any]:
        """Model, site and text."""
        return self.activations.about()

    def concerns(self, metrics: dict[str, float]) -> list[str]:
        """What is worth a warning in figures of the finished thing."""
        return []


@dataclass(frozen=True)
class Foundation:
    """A study's SAE, as what is made on top of it needs to know it.

    Args:
        activations: of the site.
        autoencoder: the SAE with its normaliser, and with what is planted.
        fingerprint: of the SAE.
        plant: what is planted in place of its residual, as the configuration has it; None for nothing.
    """

    activations: SiteActivations
    autoencoder: Autoencoder
    fingerprint: str
    plant: dict[str, Any] | None


class OnAnSAE(OfASite):
    """A recipe for something that belongs to the codes of a study's SAE.

    Args:
        on: the SAE.
    """

    def __init__(self, on: Foundation) -> None:
        super().__init__(on.activations)
        self.on = on

    def about(self) -> dict[str, Any]:
        """Model, site, text and the SAE."""
        return super().about() | {"on": {"sae": self.on.fingerprint, "plant": self.on.plant}}

    def on_this_sae(self) -> dict[str, Any]:
        """What of the fingerprint is the SAE and what it is read on."""
        return self.activations.training_spec() | {"sae": self.on.fingerprint, "plant": self.on.plant}
