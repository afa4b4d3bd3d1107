"""A model of an SAE's residual, trained: the NFM, or what it is held against."""

import copy
from pathlib import Path
from typing import Any

import torch

from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.residuals.base import ResidualModel
from sae_nfm.recipes.activations import sample
from sae_nfm.recipes.recipe import Foundation, OnAnSAE
from sae_nfm.training.learning import Learning
from sae_nfm.training.run import Run, train
from sae_nfm.training.tasks import NFMTask
from sae_nfm.training.weights import WEIGHTS, load_weights


class TrainedResidual(OnAnSAE):
    """Trains the interactions of a model whose linear part is solved, or all of it.

    Args:
        on: the SAE.
        name: of its curves.
        node: the model's settings.
        model: untrained, with its linear part set where that was solved.
        before: how much of the validation residual that part explains.
        learning: how it learns.
        rounds: on how many times as many tokens.
        linear_tokens: that the linear part was solved on.
        run: how a stage is run.
    """

    together = True

    def __init__(
        self,
        on: Foundation,
        name: str,
        node: dict[str, Any],
        model: ResidualModel,
        before: float,
        learning: Learning,
        rounds: int,
        linear_tokens: int,
        run: Run,
    ) -> None:
        super().__init__(on)
        self.name, self.node, self.model, self.before = name, node, model, before
        self.learning, self.rounds, self.linear_tokens, self.run = learning, rounds, linear_tokens, run

    @property
    def kind(self) -> str:
        """`nfm` or `control`."""
        return "nfm" if self.name == "nfm" else "control"

    def spec(self) -> dict[str, Any]:
        """The SAE, the model's settings and those of its learning."""
        own = {"model": self.node, "linear_tokens": self.linear_tokens}
        return self.on_this_sae() | self.learning.spec(self.rounds) | own

    def about(self) -> dict[str, Any]:
        """Model, site, text, SAE, and what this is."""
        return super().about() | {"model": self.node}

    def make(self, folder: Path) -> None:
        """Train it, beside a copy of the SAE that a trainer of half precision may round."""
        data, learning = self.activations.module(), self.learning
        autoencoder = copy.deepcopy(self.on.autoencoder.cpu())
        with torch.no_grad():
            codes = autoencoder.explain(sample(data.training)).codes
        self.model.initialize_(self.model.read(codes))
        both = Autoencoder(autoencoder.normalizer, autoencoder.sae, self.model, autoencoder.plant)
        schedule, seed = learning.schedule(self.rounds), self.activations.seed
        task = NFMTask(both, learning.objective, learning.optimizer, schedule, seed)
        train(self.name, task, data, self.model, self.run, folder)

    def load(self, folder: Path) -> ResidualModel:
        """The trained model."""
        load_weights(self.model, folder / WEIGHTS)
        return self.model

    def concerns(self, metrics: dict[str, float]) -> list[str]:
        """That it explains less than what it is added to."""
        explained = metrics["residual_explained"]
        if explained >= self.before:
            return []
        than = "its linear part alone" if self.before else "no correction at all"
        return [
            f"on validation documents it explains {explained:.4f} of the SAE's residual, {than} "
            f"{self.before:.4f}"
        ]
