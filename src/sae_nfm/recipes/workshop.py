"""Where a study's things are made, or found, and what became of each is remembered."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from torch import nn

from sae_nfm.baselines.surroundings import Surroundings
from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.plant import Plant
from sae_nfm.models.residuals.base import ResidualModel
from sae_nfm.models.residuals.linear import LinearControl
from sae_nfm.recipes.activations import SiteActivations
from sae_nfm.recipes.course import OWN, Candidate, Step
from sae_nfm.recipes.plant import FittedPlant
from sae_nfm.recipes.recipe import Demand, Foundation
from sae_nfm.recipes.sae import TrainedSAE
from sae_nfm.recipes.solved import SolvedLinear
from sae_nfm.recipes.surroundings import MeasuredSurroundings
from sae_nfm.store.store import Recipe, Store
from sae_nfm.training.curve import read_curve
from sae_nfm.training.parts import Part
from sae_nfm.training.run import Run
from sae_nfm.training.weights import read_metrics

log = logging.getLogger(__name__)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class StudyRecipe(Recipe[T_co], Protocol[T_co]):
    """A recipe that looks at the figures of what was made."""

    def concerns(self, metrics: dict[str, float]) -> list[str]:
        """What is worth a warning."""
        ...

    def blank(self) -> T_co:
        """What it would make, in its shapes, with no weights yet."""
        ...

    def demand(self) -> Demand:
        """What making it takes."""
        ...


class SAERecipe(StudyRecipe[Autoencoder], Protocol):
    """A recipe for an SAE with its normaliser, trained here or elsewhere."""

    @property
    def d_sae(self) -> int:
        """Number of latents, known before it is made."""
        ...


@dataclass(frozen=True)
class Order:
    """What a study asks its workshop for, beside the settings of each thing.

    Args:
        course: the training stages.
        sequential: those that train one part after the other.
        sae: the recipe of its SAE.
        sae_node: settings of the SAE.
        trained: the recipe, where the SAE is trained here, so that there can be one of another size.
        nfm_node: settings of the NFM; None where there is none.
        nfm: an untrained one, for so many latents and so wide a residual.
        plant: an unfitted plant, new at every call; None where nothing is planted.
        plant_node: its settings, as the configuration has them.
        linear_tokens: that linear parts and controls are solved on.
        surroundings: tokens behind the covariance, and in the bank.
    """

    course: tuple[Step, ...]
    sequential: tuple[Step, ...]
    sae: SAERecipe
    sae_node: dict[str, Any]
    trained: TrainedSAE | None
    nfm_node: dict[str, Any] | None
    nfm: Callable[[dict[str, Any], int, int], ResidualModel]
    plant: Callable[[], Plant] | None
    plant_node: dict[str, Any] | None
    linear_tokens: int
    surroundings: tuple[int, int]


class Workshop:
    """Makes or finds what a study needs.

    Args:
        store: where everything is kept.
        activations: of the study's site.
        run: how a training stage is run.
        order: what is asked for.

    Attributes:
        own: the study's dictionary, as far as it is made.
        metrics: figures of everything made, by name.
        curves: how everything that was trained went, by name.
        artifacts: kind, fingerprint and folder of everything made, by name.
        warnings: what the result warns of.
    """

    def __init__(self, store: Store, activations: SiteActivations, run: Run, order: Order) -> None:
        self.store, self.activations, self.run, self.order = store, activations, run, order
        node = order.nfm_node
        self.own = Candidate(OWN, _parts_of(node), node, self.from_node(node))
        self.metrics: dict[str, dict[str, float]] = {}
        self.curves: dict[str, dict[str, Any]] = {}
        self.artifacts: dict[str, dict[str, str]] = {}
        self.warnings: list[str] = []
        self._sae: Foundation | None = None

    def reseeded(self, seed: int) -> "Workshop":
        """Another, in which all is made from another seed."""
        run = replace(self.run, logger=lambda stage, *of: self.run.logger(f"{stage}_seed_{seed}", *of))
        return Workshop(self.store, self.activations.reseeded(seed), run, self.order)

    @property
    def autoencoder(self) -> Autoencoder:
        """The study's dictionary: its SAE, with its NFM as soon as that is made."""
        return self.own.autoencoder

    @property
    def foundation(self) -> Foundation:
        """The study's SAE."""
        assert self.own.foundation is not None
        return self.own.foundation

    def from_node(self, node: dict[str, Any] | None) -> Callable[[int, int], ResidualModel] | None:
        """What builds a model of the residual, of the NFM's kind, with some settings."""
        return None if node is None else lambda d_sae, d_out: self.order.nfm(node, d_sae, d_out)

    def obtain(self, name: str, recipe: StudyRecipe[T]) -> T:
        """What a recipe makes; its figures, its folder and its warnings are kept under a name."""
        made = self.store.obtain(recipe)
        folder, metrics = made.folder, read_metrics(made.folder)
        where = str(folder.resolve())
        self.artifacts[name] = {"kind": recipe.kind, "fingerprint": folder.name, "path": where}
        log.info("%s: %s", name, folder)
        if metrics:
            self.metrics[name] = metrics
        if curve := read_curve(folder):
            self.curves[name] = curve
        for concern in recipe.concerns(metrics):
            self.warn(f"{name}: {concern}")
        return made.value

    def sae(self, name: str = "sae") -> Foundation:
        """The study's SAE as its own recipe makes it, before any stage trains it further.

        Args:
            name: of what is made, where that has not been: a control may be the first that needs it.
        """
        if self._sae is None:
            self._sae = self.founded(name, self.obtain(name, self.order.sae))
        return self._sae

    def founded(self, name: str, autoencoder: Autoencoder) -> Foundation:
        """An SAE that was just obtained under a name, with what is planted on it."""
        fingerprint, node = self.artifacts[name]["fingerprint"], self.order.plant_node
        foundation = Foundation(self.activations, autoencoder, fingerprint, node)
        if self.order.plant is not None:
            planted = "plant" if name == "sae" else f"{name}_plant"
            autoencoder.plant = self.obtain(planted, FittedPlant(foundation, self.order.plant()))
        return foundation

    def solved(self, name: str, control: LinearControl, on: Foundation | None = None) -> LinearControl:
        """A linear control of the residual of an SAE, the study's if none is given."""
        on = on or self.foundation
        sae = on.autoencoder.sae
        control.build(sae.d_in, sae.d_sae)
        return self.obtain(name, SolvedLinear(on, control, self.order.linear_tokens))

    def surroundings(self) -> Surroundings:
        """What the activations at the site are like."""
        return self.obtain("surroundings", MeasuredSurroundings(self.activations, *self.order.surroundings))

    def nfm_size(self) -> int:
        """Parameters of the study's NFM; 0 where there is none."""
        return num_parameters(self.own.nfm)

    def warn(self, warning: str) -> None:
        """Say it now, and in the result."""
        if warning not in self.warnings:
            log.warning("%s", warning)
            self.warnings.append(warning)


def _parts_of(node: dict[str, Any] | None) -> frozenset[Part]:
    """The parts of a dictionary whose NFM has some settings; None is no NFM."""
    of_nfm: tuple[Part, ...] = ("linear", "interaction")
    return frozenset[Part](["sae", *(part for part in of_nfm if node is not None and node[part])])


def num_parameters(module: nn.Module | None) -> int:
    """How many numbers a module learns."""
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())
