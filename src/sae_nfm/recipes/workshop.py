"""Where a study's things are made, or found, and what became of each is remembered."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import nn

from sae_nfm.baselines.surroundings import Surroundings
from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.plant import Plant
from sae_nfm.models.residuals.base import ResidualModel
from sae_nfm.models.residuals.linear import DecoderRefit, LinearControl, OutputBias
from sae_nfm.recipes.activations import SiteActivations
from sae_nfm.recipes.plant import FittedPlant
from sae_nfm.recipes.recipe import Foundation
from sae_nfm.recipes.residual import TrainedResidual
from sae_nfm.recipes.sae import TrainedSAE
from sae_nfm.recipes.solved import SolvedLinear
from sae_nfm.recipes.surroundings import MeasuredSurroundings
from sae_nfm.store.store import Recipe, Store
from sae_nfm.training.learning import Learning
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
        sae: the recipe of its SAE.
        trained: the same, where the SAE is trained here, so that there can be one of another size.
        plant: an unfitted plant, new at every call; None where nothing is planted.
        plant_node: its settings, as the configuration has them.
        residual: how models of the residual learn.
        linear_tokens: that linear parts and controls are solved on.
        surroundings: tokens behind the covariance, and in the bank.
    """

    sae: SAERecipe
    trained: TrainedSAE | None
    plant: Callable[[], Plant] | None
    plant_node: dict[str, Any] | None
    residual: Learning
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
        autoencoder: the SAE, once it is made; with its NFM, once that is.
        metrics: figures of everything made, by name.
        artifacts: kind, fingerprint and folder of everything made, by name.
        warnings: what the result warns of.
    """

    autoencoder: Autoencoder
    foundation: Foundation

    def __init__(self, store: Store, activations: SiteActivations, run: Run, order: Order) -> None:
        self.store, self.activations, self.run, self.order = store, activations, run, order
        self.metrics: dict[str, dict[str, float]] = {}
        self.artifacts: dict[str, dict[str, str]] = {}
        self.warnings: list[str] = []

    def obtain(self, name: str, recipe: StudyRecipe[T]) -> T:
        """What a recipe makes; its figures, its folder and its warnings are kept under a name."""
        made = self.store.obtain(recipe)
        folder, metrics = made.folder, read_metrics(made.folder)
        where = str(folder.resolve())
        self.artifacts[name] = {"kind": recipe.kind, "fingerprint": folder.name, "path": where}
        log.info("%s: %s", name, folder)
        if metrics:
            self.metrics[name] = metrics
        for concern in recipe.concerns(metrics):
            self.warn(f"{name}: {concern}")
        return made.value

    def sae(self) -> Autoencoder:
        """The study's SAE with its normaliser, and with what is planted on it."""
        self.autoencoder = self.obtain("sae", self.order.sae)
        fingerprint = self.artifacts["sae"]["fingerprint"]
        self.foundation = Foundation(self.activations, self.autoencoder, fingerprint, self.order.plant_node)
        if self.order.plant is not None:
            self.autoencoder.plant = self.obtain("plant", FittedPlant(self.foundation, self.order.plant()))
        return self.autoencoder

    def wider_sae(self, name: str, num_parameters: int) -> Autoencoder:
        """An SAE of about `num_parameters` parameters, otherwise like the study's, which is trained here."""
        assert self.order.trained is not None
        return self.obtain(name, self.order.trained.wider(name, num_parameters))

    def nfm(self, node: dict[str, Any], model: ResidualModel) -> Autoencoder:
        """The SAE and an NFM on its residual."""
        nfm = self.residual("nfm", node, model)
        sae = self.foundation.autoencoder
        self.autoencoder = Autoencoder(sae.normalizer, sae.sae, nfm, sae.plant)
        return self.autoencoder

    def solved(self, name: str, control: LinearControl) -> LinearControl:
        """A linear control of the SAE's residual."""
        sae = self.foundation.autoencoder.sae
        control.build(sae.d_in, sae.d_sae)
        return self.obtain(name, SolvedLinear(self.foundation, control, self.order.linear_tokens))

    def residual(
        self, name: str, node: dict[str, Any], model: ResidualModel, rounds: int = 1
    ) -> ResidualModel:
        """A model of the SAE's residual, trained on `rounds` times the NFM's tokens.

        Its linear part is solved first, where it is not trained together with the interactions.
        """
        linear = self._solve_linear_part(f"{name}_linear", model)
        order = self.order
        recipe = TrainedResidual(
            self.foundation, name, node, model, linear, order.residual, rounds, order.linear_tokens, self.run
        )
        return self.obtain(name, recipe)

    def surroundings(self) -> Surroundings:
        """What the activations at the site are like."""
        return self.obtain("surroundings", MeasuredSurroundings(self.activations, *self.order.surroundings))

    def nfm_size(self) -> int:
        """Parameters of the study's NFM; 0 where there is none."""
        return num_parameters(self.autoencoder.nfm)

    def warn(self, warning: str) -> None:
        """Say it now, and in the result."""
        if warning not in self.warnings:
            log.warning("%s", warning)
            self.warnings.append(warning)

    def _solve_linear_part(self, name: str, model: ResidualModel) -> dict[str, float]:
        """Solve what is linear in a model; the figures of the solution."""
        if model.fit == "together" or (model.W_lin is None and model.b is None):
            return {}
        kind = OutputBias if model.W_lin is None else DecoderRefit
        control = self.solved(name, kind(model.fit_k, bias=model.b is not None))
        model.set_linear_(control.weight, control.bias)
        return self.metrics[name]


def num_parameters(module: nn.Module | None) -> int:
    """How many numbers a module learns."""
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())
