"""An SAE that is trained here, with its normaliser."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sae_nfm.interop import sae_nfm
from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.normalizer import Normalizer, NormalizerKind
from sae_nfm.models.saes.base import SparseAutoencoder
from sae_nfm.recipes.activations import SiteActivations, sample
from sae_nfm.recipes.recipe import Demand, size_of
from sae_nfm.training.learning import Learning
from sae_nfm.training.parts import Part
from sae_nfm.training.run import Run, train
from sae_nfm.training.tasks import SAETask
from sae_nfm.training.weights import WEIGHTS, load_weights, read_metrics


@dataclass(frozen=True)
class TrainedSAE:
    """Trains an SAE of any family.

    Args:
        name: of its curves and of its figures in the result.
        node: the family and its settings, as the configuration has them.
        build: an untrained SAE of these settings for activations of a width.
        normalizer: kind of the normaliser.
        learning: how it learns.
        activations: what on.
        run: how a stage is run.
    """

    name: str
    node: Mapping[str, Any]
    build: Callable[[Mapping[str, Any], int], SparseAutoencoder]
    normalizer: NormalizerKind
    learning: Learning
    activations: SiteActivations
    run: Run

    kind = "sae"
    together = True

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.node["d_sae"]

    def wider(self, name: str, num_parameters: int) -> "TrainedSAE":
        """The same SAE with so many more latents that it has about `num_parameters` parameters."""
        with torch.device("meta"):
            sae = self.build(self.node, self.activations.lm.d_model)
        each = (_size(sae) - sae.d_in) / sae.d_sae
        return replace(
            self, name=name, node={**self.node, "d_sae": round((num_parameters - sae.d_in) / each)}
        )

    def spec(self) -> dict[str, Any]:
        """Activations, normaliser, family and all settings of the learning."""
        own = {"normalizer": self.normalizer, "sae": dict(self.node)}
        return self.activations.training_spec() | self.learning.spec() | own

    def about(self) -> dict[str, Any]:
        """Model, site, text and family."""
        return self.activations.about() | {"sae": dict(self.node), "normalizer": self.normalizer}

    def make(self, folder: Path) -> None:
        """Train it."""
        data, autoencoder = self.activations.module(), self.untrained()
        autoencoder.initialize_sae_(sample(data.training))
        learning, seed = self.learning, self.activations.seed
        task = SAETask(autoencoder, learning.reconstruction, learning.optimizer, learning.schedule(), seed)
        train(self.name, task, data, autoencoder, self.run, folder)
        if self.run.ranks.is_first:
            about = self.about() | read_metrics(folder)
            sae_nfm.write_config(sae_nfm.sae_config(autoencoder, self.node, about), folder)

    def blank(self) -> Autoencoder:
        """Not yet trained."""
        return self.untrained()

    def demand(self) -> Demand:
        """All of it is trained."""
        autoencoder, tokens = self.untrained(), self.learning.trained_tokens()
        return Demand(tokens, size_of(autoencoder), autoencoder, frozenset[Part]({"sae"}))

    def load(self, folder: Path) -> Autoencoder:
        """The trained SAE and its normaliser."""
        autoencoder = self.untrained()
        load_weights(autoencoder, folder / WEIGHTS)
        return autoencoder

    def concerns(self, metrics: dict[str, float]) -> list[str]:
        """That training did not help."""
        return self.learning.concerns(metrics, "the untrained start")

    def untrained(self) -> Autoencoder:
        """It before its first step; what depends on activations is not fitted."""
        torch.manual_seed(self.activations.seed)
        d_model = self.activations.lm.d_model
        return Autoencoder(Normalizer(d_model, self.normalizer), self.build(self.node, d_model))


def _size(sae: SparseAutoencoder) -> int:
    return sum(parameter.numel() for parameter in sae.parameters())
