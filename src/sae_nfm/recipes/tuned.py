"""Parts of a dictionary that are trained together, further or from scratch, for any objective."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sae_nfm.interop import sae_nfm
from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.recipes.activations import SiteActivations, sample
from sae_nfm.recipes.recipe import Demand, size_of
from sae_nfm.training.behaviour import BehaviourTask
from sae_nfm.training.learning import Learning
from sae_nfm.training.objectives.behaviour import Behaviour
from sae_nfm.training.parts import Part
from sae_nfm.training.run import Run, train
from sae_nfm.training.tasks import DictionaryTask, SAETask
from sae_nfm.training.weights import WEIGHTS, load_weights, read_metrics


@dataclass(frozen=True)
class Beginning:
    """What a dictionary is before it is trained further.

    Args:
        build: a new copy of it, of any weights.
        start: gives such a copy the weights to start from, given a sample of the activations.
        spec: what determines them.
        sae: settings of its SAE, as the configuration has them.
        nfm: those of its NFM; None where it has none.
    """

    build: Callable[[], Autoencoder]
    start: Callable[[Autoencoder, torch.Tensor], None]
    spec: Mapping[str, Any]
    sae: Mapping[str, Any]
    nfm: Mapping[str, Any] | None


@dataclass(frozen=True)
class TunedParts:
    """Trains parts of a dictionary.

    Where the SAE is among them, its artifact lies in the folder itself, and the NFM's in `nfm/` below it;
    otherwise the NFM's lies in the folder.

    Args:
        name: of its curves.
        beginning: what is trained.
        parts: of it.
        learning: how.
        activations: what on.
        run: how a stage is run.
        on: the SAE that the parts are on, and what is planted, where it is not trained itself.
    """

    name: str
    beginning: Beginning
    parts: Collection[Part]
    learning: Learning
    activations: SiteActivations
    run: Run
    on: Mapping[str, Any]

    together = True

    @property
    def kind(self) -> str:
        """`sae` or `nfm`: what lies in the folder itself."""
        return "sae" if "sae" in self.parts else "nfm"

    def spec(self) -> dict[str, Any]:
        """Activations, what is started from, which parts, and all settings of the learning."""
        own = {"from": dict(self.beginning.spec), "parts": sorted(self.parts), "on": dict(self.on)}
        return self.activations.training_spec() | self.learning.spec() | own

    def about(self) -> dict[str, Any]:
        """Model, site, text, what it is made of, and what was trained for what."""
        about = self.activations.about() | {"sae": dict(self.beginning.sae), "trained": sorted(self.parts)}
        return about | {"objective": self.learning.settings["objective"], "on": dict(self.on)}

    def make(self, folder: Path) -> None:
        """Train it."""
        autoencoder = self.beginning.build()
        self.beginning.start(autoencoder, sample(self.activations.stream()))
        if self.learning.through_model:
            per_step = self.learning.blocks(self.activations.cfg.context)
            data = self.activations.block_module(per_step)
        else:
            data = self.activations.module()
        task = self._task(autoencoder, data.tokens_per_step)
        trained = autoencoder if "sae" in self.parts else autoencoder.nfm
        assert trained is not None
        train(self.name, task, data, trained, self.run, folder)
        if self.run.ranks.is_first:
            self._publish(autoencoder, folder)

    def blank(self) -> Autoencoder:
        """As it is before."""
        return self.beginning.build()

    def demand(self) -> Demand:
        """Parts of it are trained."""
        autoencoder = self.blank()
        trained = autoencoder if "sae" in self.parts else autoencoder.nfm
        assert trained is not None
        tokens, parts = self.learning.trained_tokens(), frozenset(self.parts)
        return Demand(tokens, size_of(trained), autoencoder, parts, self.learning.through_model)

    def load(self, folder: Path) -> Autoencoder:
        """The dictionary with its trained parts; the others are as they were."""
        autoencoder = self.beginning.build()
        if "sae" not in self.parts:
            assert autoencoder.nfm is not None
            load_weights(autoencoder.nfm, folder / WEIGHTS)
            return autoencoder
        alone = Autoencoder(autoencoder.normalizer, autoencoder.sae)
        load_weights(alone, folder / WEIGHTS)
        if autoencoder.nfm is not None:
            load_weights(autoencoder.nfm, folder / sae_nfm.NFM / WEIGHTS)
        return autoencoder

    def concerns(self, metrics: dict[str, float]) -> list[str]:
        """That training did not help."""
        return self.learning.concerns(metrics, "its start")

    def _task(self, autoencoder: Autoencoder, batch_tokens: int) -> DictionaryTask:
        learning, at = self.learning, self.activations
        how = (learning.optimizer, learning.schedule(batch_tokens=batch_tokens), at.seed)
        if isinstance(learning.objective, Behaviour):
            where = (at.lm, at.site, at.splits.train.counted, at.cfg.lm_batch)
            task = BehaviourTask(autoencoder, self.parts, *where, learning.objective, *how, at.company)
        else:
            task = SAETask(autoencoder, learning.objective, *how, self.parts)
        task.optimizer_setting = learning.optimizer_setting
        return task

    def _publish(self, autoencoder: Autoencoder, folder: Path) -> None:
        """Leave what was trained as artifacts that are understood without the study."""
        about, beginning = self.about() | read_metrics(folder), self.beginning
        below = folder if "sae" not in self.parts else folder / sae_nfm.NFM
        if "sae" in self.parts:
            alone = Autoencoder(autoencoder.normalizer, autoencoder.sae)
            sae_nfm.write(alone, sae_nfm.sae_config(alone, beginning.sae, about), folder)
            about = about | {"on": {"sae": folder.stem, "plant": None}}
        if autoencoder.nfm is not None:
            assert beginning.nfm is not None
            config = sae_nfm.residual_config(autoencoder.nfm, beginning.nfm, about)
            sae_nfm.write(autoencoder.nfm, config, below)
