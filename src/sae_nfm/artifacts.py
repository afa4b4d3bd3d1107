"""The dictionaries of a study: what determines each, and how it is made where it is not there yet."""

import logging
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file
from torch import nn

from sae_nfm import config
from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.controls import CodesMLP, LinearControl, NormalEquations
from sae_nfm.models.nfm import NeuralFactorizationMachine
from sae_nfm.models.normalizer import Normalizer
from sae_nfm.site_activations import SiteActivations, sample
from sae_nfm.store import fingerprint
from sae_nfm.training.stages import WEIGHTS, Run, load_weights, read_metrics, save_weights, train
from sae_nfm.training.tasks import NFMTask, SAETask

log = logging.getLogger(__name__)
_LEARNING = ("batch_tokens", "pool_tokens", "warmup", "decay", "gradient_clip")


class Artifacts:
    """Makes or reuses the dictionaries that a study needs.

    Args:
        cfg: the composed configuration.
        activations: of the study's site.
        run: how training stages are run.
    """

    def __init__(self, cfg: DictConfig, activations: SiteActivations, run: Run) -> None:
        self.cfg, self.activations, self.runner = cfg, activations, run
        self.store, self.d_model = activations.store, activations.lm.d_model
        self.metrics: dict[str, dict[str, float]] = {}

    def sae(self) -> Autoencoder:
        """The trained SAE with its normaliser, and with what is planted on it."""
        autoencoder = self._sae("sae", self.cfg.sae)
        autoencoder.plant = config.plant(self.cfg)
        if autoencoder.plant is not None:
            self._fit_plant(autoencoder)
        return autoencoder

    def nfm(self, autoencoder: Autoencoder) -> Autoencoder:
        """The same with an NFM trained on the SAE's residual."""
        cfg = self.cfg.nfm
        torch.manual_seed(self.cfg.seed)
        nfm = config.nfm(cfg, self.cfg.sae.d_sae, self.d_model)
        if nfm.fit == "linear_then_interaction" and (cfg.linear or cfg.bias) and nfm.has_interaction:
            first = _changed(cfg, interaction=False)
            linear = config.nfm(first, self.cfg.sae.d_sae, self.d_model)
            self._residual_model("nfm", _nfm_spec(first, linear), linear, autoencoder, stage="nfm_linear")
            nfm.load_state_dict(linear.state_dict(), strict=False)
            for parameter in (nfm.W_lin, nfm.b):
                if parameter is not None:
                    parameter.requires_grad_(False)
        self._residual_model("nfm", _nfm_spec(cfg, nfm), nfm, autoencoder, stage="nfm")
        return Autoencoder(autoencoder.normalizer, autoencoder.sae, nfm, autoencoder.plant)

    def wide_sae(self, num_parameters: int) -> Autoencoder:
        """An SAE of about `num_parameters` parameters, otherwise like the study's."""
        d_in = self.d_model
        d_sae = max(self.cfg.sae.k, round((num_parameters - d_in) / (2 * d_in + 1)))
        return self._sae("wide_sae", _changed(self.cfg.sae, d_sae=d_sae))

    def control(
        self, name: str, control: LinearControl | CodesMLP, autoencoder: Autoencoder, num_parameters: int
    ) -> None:
        """Solve or train a control in place."""
        torch.manual_seed(self.cfg.seed)
        control.build(self.d_model, self.cfg.sae.d_sae, num_parameters)
        if isinstance(control, LinearControl):
            self._solve(name, control, autoencoder)
        else:
            spec = {"control": name, "num_parameters": num_parameters}
            self._residual_model("control", spec, control, autoencoder, stage=name)

    def _sae(self, stage: str, cfg: DictConfig) -> Autoencoder:
        study = self.cfg
        torch.manual_seed(study.seed)
        autoencoder = Autoencoder(Normalizer(self.d_model), config.sae(cfg, self.d_model))
        spec = self._data_spec() | {
            "normalizer": study.normalizer,
            "sae": config.plain(cfg),
            "optimizer": config.plain(study.sae_optimizer),
            "train_tokens": study.train_tokens,
            "dead_after": study.dead_after,
        }

        def make(folder: Path) -> None:
            data = self.activations.module()
            x = sample(data.training)
            autoencoder.normalizer.fit(x, study.normalizer)
            autoencoder.sae.initialize_(autoencoder.normalizer(x))
            schedule, optimizer = (
                config.schedule(study, "train_tokens"),
                config.optimizer(study.sae_optimizer),
            )
            objective = config.objective(study)
            task = SAETask(autoencoder, objective, optimizer, schedule, study.seed, study.dead_after)
            train(stage, task, data, autoencoder, self.runner, folder)

        self._load(stage, self.store.fetch("sae", spec, make, together=True), autoencoder)
        if stage == "sae":
            self.sae_fingerprint = fingerprint(spec)
        return autoencoder

    def _residual_model(
        self,
        kind: str,
        spec: dict[str, Any],
        model: NeuralFactorizationMachine | CodesMLP,
        autoencoder: Autoencoder,
        *,
        stage: str,
    ) -> None:
        """Train a model of the SAE's residual in place, or load it; `stage` names it in logs and curves."""
        study = self.cfg
        spec = self._on_this_sae() | {
            kind: spec,
            "optimizer": config.plain(study.nfm_optimizer),
            "train_tokens": study.nfm_train_tokens,
        }

        def make(folder: Path) -> None:
            schedule = config.schedule(study, "nfm_train_tokens")
            optimizer, objective = config.optimizer(study.nfm_optimizer), config.objective(study)
            both = Autoencoder(autoencoder.normalizer, autoencoder.sae, model, autoencoder.plant)
            task = NFMTask(both, objective, optimizer, schedule, study.seed)
            train(stage, task, self.activations.module(), model, self.runner, folder)

        self._load(stage, self.store.fetch(kind, spec, make, together=True), model)

    def _solve(self, name: str, control: LinearControl, autoencoder: Autoencoder) -> None:
        num_tokens = self.cfg.control_tokens

        def make(folder: Path) -> None:
            stream = self.activations.stream()
            equations = NormalEquations(control.to(stream.lm.device))
            for start in range(0, num_tokens, 8192):
                x = stream.read(start, min(start + 8192, num_tokens)).float()
                with torch.no_grad():
                    explained = autoencoder.to(x.device).explain(x)
                equations.add(explained.target, explained.codes, explained.target - explained.decoded)
            equations.solve_()
            save_weights(control, folder / WEIGHTS)

        folder = self.store.fetch(
            "control", self._on_this_sae() | {"control": name, "tokens": num_tokens}, make
        )
        load_weights(control, folder / WEIGHTS)

    def _fit_plant(self, autoencoder: Autoencoder) -> None:
        plant = autoencoder.plant
        assert plant is not None

        def make(folder: Path) -> None:
            x = autoencoder.normalizer(sample(self.activations.stream()))
            with torch.no_grad():
                codes = autoencoder.sae.encode(x)
                plant.fit(codes, autoencoder.sae.decode(codes), autoencoder.sae.d_sae, self.cfg.seed)
            save_weights(plant, folder / WEIGHTS)

        plant.restore(load_file(self.store.fetch("plant", self._on_this_sae(), make) / WEIGHTS))

    def _load(self, stage: str, folder: Path, module: nn.Module) -> None:
        load_weights(module, folder / WEIGHTS)
        self.metrics[stage] = read_metrics(folder)
        log.info("%s: %s", stage, folder)

    def _data_spec(self) -> dict[str, Any]:
        """What determines the training activations, and how they are learnt from."""
        cfg = self.cfg
        return self.activations.spec() | {
            "activations": config.plain(cfg.activations),
            "objective": config.plain(cfg.objective),
            "precision": cfg.trainer.precision,
            **{name: cfg[name] for name in _LEARNING},
        }

    def _on_this_sae(self) -> dict[str, Any]:
        return self._data_spec() | {"sae": self.sae_fingerprint, "plant": config.plain(self.cfg.plant)}


def _nfm_spec(cfg: DictConfig, nfm: NeuralFactorizationMachine) -> dict[str, Any]:
    """What determines an NFM: without interactions, nothing of what they are made of."""
    settings = config.plain(cfg)
    if nfm.has_interaction:
        return settings
    return {name: settings[name] for name in ("_target_", "linear", "bias", "fit_k")}


def _changed(node: DictConfig, **settings: Any) -> DictConfig:
    """A config node with some settings changed."""
    changed = OmegaConf.merge(node, settings)
    assert isinstance(changed, DictConfig)
    return changed
