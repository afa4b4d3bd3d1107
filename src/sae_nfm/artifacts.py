"""The dictionaries of a study: what determines each, and how it is made where it is not there yet."""

import logging
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file
from torch import nn

from sae_nfm import config
from sae_nfm.evaluation.reconstructions import FromControl, FromMLP
from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.least_squares import bytes_of, check_memory
from sae_nfm.models.normalizer import Normalizer
from sae_nfm.models.residuals.base import ResidualModel
from sae_nfm.models.residuals.linear import DecoderRefit, LinearControl, OutputBias
from sae_nfm.models.residuals.mlp import CodesMLP
from sae_nfm.recipes.site import SiteActivations, sample
from sae_nfm.store.store import fingerprint
from sae_nfm.training.solving import solve
from sae_nfm.training.stages import WEIGHTS, Run, load_weights, read_metrics, save_weights, train
from sae_nfm.training.tasks import NFMTask, SAETask

log = logging.getLogger(__name__)
_TOKENS_PER_LATENT = 100
_MUCH = 1e9  # bytes
_LEARNING = (
    *("batch_tokens", "pool_tokens", "warmup", "decay", "gradient_clip"),
    *("validations", "validation_tokens"),  # they choose among the weights of a run
)


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
        self.warnings: list[str] = []

    def check_memory(self) -> None:
        """Raise a `ValueError` where a linear part will not fit; say what it takes, where that is much."""
        cfg, device = self.cfg, self.activations.lm.device
        made = config.reconstructions(cfg).values()
        refitted = any(isinstance(r, FromControl) and isinstance(r.control, DecoderRefit) for r in made)
        solved_first = cfg.nfm is not None and cfg.nfm.linear and cfg.nfm.fit != "together"
        if refitted or solved_first or any(isinstance(r, FromMLP) for r in made):
            check_memory(cfg.sae.d_sae, device)
            needed = bytes_of(cfg.sae.d_sae)
            if needed > _MUCH:
                log.info("solving a linear part will take %.1f GB on %s", needed / 1e9, device)

    def sae(self) -> Autoencoder:
        """The trained SAE with its normaliser, and with what is planted on it."""
        autoencoder = self._sae("sae", self.cfg.sae)
        autoencoder.plant = config.plant(self.cfg)
        if autoencoder.plant is not None:
            self._fit_plant(autoencoder)
        return autoencoder

    def nfm(self, autoencoder: Autoencoder) -> Autoencoder:
        """The same with an NFM trained on the SAE's residual."""
        torch.manual_seed(self.cfg.seed)
        nfm = config.nfm(self.cfg.nfm, self.cfg.sae.d_sae, self.d_model)
        self._residual_model("nfm", config.plain(self.cfg.nfm), nfm, autoencoder)
        return Autoencoder(autoencoder.normalizer, autoencoder.sae, nfm, autoencoder.plant)

    def wide_sae(self, num_parameters: int) -> Autoencoder:
        """An SAE of about `num_parameters` parameters, otherwise like the study's."""
        d_in = self.d_model
        d_sae = max(self.cfg.sae.k, round((num_parameters - d_in) / (2 * d_in + 1)))
        return self._sae("wide_sae", _changed(self.cfg.sae, d_sae=d_sae))

    def linear_control(self, name: str, control: LinearControl, autoencoder: Autoencoder) -> None:
        """Solve a linear control in place."""
        control.build(self.d_model, self.cfg.sae.d_sae)
        self._solve(name, control, autoencoder)

    def codes_mlp(self, name: str, made: FromMLP, autoencoder: Autoencoder, num_parameters: int) -> CodesMLP:
        """An MLP on the codes, of the NFM's number of parameters where it has no size of its own."""
        d_sae, d_out = self.cfg.sae.d_sae, self.d_model
        hidden = made.d_hidden or CodesMLP.hidden_for(num_parameters, d_sae, d_out, made.support)
        torch.manual_seed(self.cfg.seed)
        model = CodesMLP(d_sae, d_out, hidden, made.support)
        spec = {"control": "CodesMLP", "d_hidden": hidden, "support": made.support}
        self._residual_model(name, spec, model, autoencoder, rounds=made.rounds)
        return model

    def _sae(self, stage: str, cfg: DictConfig) -> Autoencoder:
        study = self.cfg
        torch.manual_seed(study.seed)
        autoencoder = Autoencoder(Normalizer(self.d_model, study.normalizer), config.sae(cfg, self.d_model))
        spec = self._data_spec() | {
            "normalizer": study.normalizer,
            "sae": config.plain(cfg),
            "optimizer": config.plain(study.sae_optimizer),
            "train_tokens": study.train_tokens,
            **{name: study[name] for name in _LEARNING},
        }

        def make(folder: Path) -> None:
            data = self.activations.module()
            x = sample(data.training)
            autoencoder.normalizer.fit(x)
            autoencoder.sae.initialize_(autoencoder.normalizer(x))
            schedule, optimizer = (
                config.schedule(study, "train_tokens"),
                config.optimizer(study.sae_optimizer),
            )
            objective = config.objective(study)
            task = SAETask(autoencoder, objective, optimizer, schedule, study.seed)
            train(stage, task, data, autoencoder, self.runner, folder)

        self._load(stage, self.store.fetch("sae", spec, make, together=True), autoencoder)
        if self.metrics[stage].get("best_step") == 0:
            self.warn(
                f"{stage}: training made it only worse, and the untrained start was kept; a lower "
                "sae_optimizer.lr or a longer warmup usually mends this"
            )
        if stage == "sae":
            self.sae_fingerprint = fingerprint(spec)
        return autoencoder

    def _residual_model(
        self,
        stage: str,
        spec: dict[str, Any],
        model: ResidualModel,
        autoencoder: Autoencoder,
        rounds: int = 1,
    ) -> None:
        """Train a model of the SAE's residual in place, or load it; `stage` names it in logs and curves.

        Its linear part is solved first, where it is not trained together with the interactions.
        """
        study = self.cfg
        before = self._solve_linear_part(f"{stage}_linear", model, autoencoder)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            self.metrics[stage] = self.metrics[f"{stage}_linear"]
            return
        spec = self._on_this_sae() | {
            "model": spec,
            "optimizer": config.plain(study.nfm_optimizer),
            "train_tokens": study.nfm_train_tokens * rounds,
            "linear_tokens": study.linear_tokens,
            **{name: study[name] for name in _LEARNING},
        }

        def make(folder: Path) -> None:
            schedule = config.schedule(study, "nfm_train_tokens", rounds)
            optimizer, objective = config.optimizer(study.nfm_optimizer), config.objective(study)
            data = self.activations.module()
            with torch.no_grad():
                codes = autoencoder.cpu().explain(sample(data.training)).codes
            model.initialize_(model.read(codes))
            both = Autoencoder(autoencoder.normalizer, autoencoder.sae, model, autoencoder.plant)
            task = NFMTask(both, objective, optimizer, schedule, study.seed)
            train(stage, task, data, model, self.runner, folder)

        kind = "nfm" if stage == "nfm" else "control"
        self._load(stage, self.store.fetch(kind, spec, make, together=True), model)
        autoencoder.to(next(model.parameters()).dtype)  # a trainer of half precision leaves it in that
        self._warn_of_loss(stage, before, "its linear part alone" if before else "no correction at all")

    def _solve_linear_part(self, stage: str, model: ResidualModel, autoencoder: Autoencoder) -> float:
        """Solve what is linear in a model; how much of the validation residual that explains."""
        if model.fit == "together" or (model.W_lin is None and model.b is None):
            return 0.0
        kind = OutputBias if model.W_lin is None else DecoderRefit
        control = kind(model.fit_k, bias=model.b is not None)
        control.build(self.d_model, self.cfg.sae.d_sae)
        self._solve(stage, control, autoencoder)
        model.set_linear_(control.weight, control.bias)
        return self.metrics[stage]["residual_explained"]

    def _solve(self, stage: str, control: LinearControl, autoencoder: Autoencoder) -> None:
        """Solve a built linear control in place, or load it."""
        cfg = self.cfg
        spec = self._on_this_sae() | {
            "control": type(control).__name__,
            "fit_k": control.fit_k,
            "bias": control.has_bias,
            "tokens": cfg.linear_tokens,
            "validation_tokens": cfg.validation_tokens,
        }

        def make(folder: Path) -> None:
            data = self.activations.module()
            held_out = (data.validation, data.validation_tokens)
            solve(control, autoencoder, data.training, cfg.linear_tokens, *held_out, folder)

        self._load(stage, self.store.fetch("linear", spec, make), control)
        self._warn_of_loss(stage, 0.0, "no correction at all")
        per_latent = cfg.linear_tokens / cfg.sae.d_sae
        if per_latent < _TOKENS_PER_LATENT and type(control) is DecoderRefit:
            self.warn(
                f"linear_tokens={cfg.linear_tokens}: {per_latent:.0f} tokens per latent; below "
                f"{_TOKENS_PER_LATENT} a refitted decoder is not at its best, and interactions may be "
                "credited with what it missed"
            )

    def _warn_of_loss(self, stage: str, before: float, than: str) -> None:
        """Warn where a part explains less of the validation residual than what it is added to."""
        explained = self.metrics[stage]["residual_explained"]
        if explained < before:
            self.warn(
                f"{stage}: on validation documents it explains {explained:.4f} of the SAE's residual, {than} "
                f"{before:.4f}"
            )

    def warn(self, warning: str) -> None:
        """Say it now, and in the result."""
        if warning not in self.warnings:
            log.warning("%s", warning)
            self.warnings.append(warning)

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
        """What determines the training activations, and what the dictionaries are for."""
        cfg = self.cfg
        return self.activations.spec() | {
            "activations": config.plain(cfg.activations),
            "objective": config.plain(cfg.objective),
            "trainer": config.trainer_spec(cfg),
        }

    def _on_this_sae(self) -> dict[str, Any]:
        return self._data_spec() | {"sae": self.sae_fingerprint, "plant": config.plain(self.cfg.plant)}


def _changed(node: DictConfig, **settings: Any) -> DictConfig:
    """A config node with some settings changed."""
    changed = OmegaConf.merge(node, settings)
    assert isinstance(changed, DictConfig)
    return changed
