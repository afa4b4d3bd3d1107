"""A model of an SAE's residual, trained: the NFM, or what it is held against."""

import copy
import json
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from sae_nfm.interop import sae_nfm
from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.residuals.base import ResidualModel
from sae_nfm.recipes.activations import sample
from sae_nfm.recipes.recipe import Demand, Foundation, OnAnSAE, size_of
from sae_nfm.store.files import write_atomically
from sae_nfm.store.hashes import file_hash
from sae_nfm.store.store import fingerprint
from sae_nfm.training.learning import Learning
from sae_nfm.training.parts import Part
from sae_nfm.training.run import Run, train
from sae_nfm.training.tasks import NFMTask
from sae_nfm.training.weights import METRICS, WEIGHTS, load_weights, read_metrics, save_weights


class TrainedResidual(OnAnSAE):
    """Trains the interactions of a model whose linear part is solved, or all of it.

    Args:
        on: the SAE.
        name: of its curves.
        node: the model's settings.
        model: untrained, with its linear part set where that was solved.
        linear: figures of that solution; none where there is none.
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
        linear: dict[str, float],
        learning: Learning,
        rounds: int,
        linear_tokens: int,
        run: Run,
    ) -> None:
        super().__init__(on)
        self.name, self.node, self.model, self.linear = name, node, model, linear
        self.learning, self.rounds, self.linear_tokens, self.run = learning, rounds, linear_tokens, run

    @property
    def kind(self) -> str:
        """`nfm` or `control`."""
        return "nfm" if self.name == "nfm" else "control"

    def spec(self) -> dict[str, Any]:
        """The SAE, the model's settings and those of its learning."""
        own = {"model": determining(self.node), "linear_tokens": self.linear_tokens}
        return self.on_this_sae() | self.learning.spec(self.rounds) | own

    def about(self) -> dict[str, Any]:
        """Model, site, text, SAE, and what this is."""
        return super().about() | {"model": self.node}

    def make(self, folder: Path) -> None:
        """Train it, unless all of it is solved; and say what it is."""
        if any(parameter.requires_grad for parameter in self.model.parameters()):
            self._train(folder)
        elif self.run.ranks.is_first:
            save_weights(self.model, folder / WEIGHTS)
            write_atomically(folder / METRICS, json.dumps(self.linear, indent=1))
        if self.run.ranks.is_first:
            about = self.about() | read_metrics(folder)
            sae_nfm.write_config(sae_nfm.residual_config(self.model, self.node, about), folder)

    def _train(self, folder: Path) -> None:
        """Train it beside a copy of the SAE, which a trainer of half precision may round."""
        data, learning, company = self.activations.module(), self.learning, self.activations.company
        autoencoder = copy.deepcopy(self.on.autoencoder.cpu())
        both = Autoencoder(autoencoder.normalizer, autoencoder.sae, self.model, autoencoder.plant)
        x, on = sample(data.training), fingerprint(self.on_this_sae())
        read = (on, fingerprint(self.activations.training_spec()))
        both.initialize_nfm_(company.once(("codes", *read), lambda: both.codes(x)))
        schedule, seed = learning.schedule(self.rounds), self.activations.seed
        task = NFMTask(both, learning.reconstruction, learning.optimizer, schedule, seed)
        task.company, task.on = company, on
        train(self.name, task, data, self.model, self.run, folder)

    def blank(self) -> ResidualModel:
        """Not yet trained."""
        return self.model

    def demand(self) -> Demand:
        """It is trained beside the frozen SAE, unless all of it is solved."""
        on, model = self.on.autoencoder, self.model
        both = Autoencoder(on.normalizer, on.sae, model, on.plant)
        is_trained = any(parameter.requires_grad for parameter in model.parameters())
        tokens = self.learning.trained_tokens(self.rounds) if is_trained else 0
        parts: list[Part] = ["interaction", "linear"] if model.fit == "together" else ["interaction"]
        return Demand(tokens, size_of(model), both, frozenset(parts))

    def load(self, folder: Path) -> ResidualModel:
        """The trained model."""
        load_weights(self.model, folder / WEIGHTS)
        return self.model

    def concerns(self, metrics: dict[str, float]) -> list[str]:
        """That it explains less than what it is added to."""
        explained, before = metrics["residual_explained"], self.linear.get("residual_explained", 0.0)
        if explained >= before:
            return []
        than = "its linear part alone" if before else "no correction at all"
        return [
            f"on validation documents it explains {explained:.4f} of the SAE's residual, {than} {before:.4f}"
        ]


def determining(node: dict[str, Any] | None) -> dict[str, Any] | None:
    """The settings of a model of the residual; of files that it reads, what is in them."""
    if node is None:
        return None
    reads = getattr(resolve_name(node["_target_"]), "reads", ())
    return {**node, **{name: file_hash(Path(node[name])) for name in reads}}
