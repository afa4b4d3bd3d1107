"""Every artifact of a study: what determines it, and how it is made where it is not there yet."""

import logging
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file
from torch import nn

from sae_nfm import config
from sae_nfm.data.activations import ActivationModule, ActivationSequence, ActivationStream
from sae_nfm.data.cache import CachedActivations
from sae_nfm.data.tokens import TokenBlocks, TokenSplits, prepare_tokens
from sae_nfm.evaluation import surroundings
from sae_nfm.evaluation.surroundings import Surroundings
from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.controls import CodesMLP, LinearControl, NormalEquations
from sae_nfm.models.nfm import NeuralFactorizationMachine
from sae_nfm.models.normalizer import Normalizer
from sae_nfm.ranks import Ranks
from sae_nfm.store import Store, fingerprint
from sae_nfm.training.stages import WEIGHTS, Run, load_weights, read_metrics, save_weights, train
from sae_nfm.training.tasks import NFMTask, SAETask

log = logging.getLogger(__name__)
SAMPLE_TOKENS = 32768
"""Training activations that normalisers, decoder biases and plants are fitted on."""
_ORDER_OF_DATA = (
    "layer",
    "hook",
    "context",
    "batch_tokens",
    "pool_tokens",
    "warmup",
    "decay",
    "gradient_clip",
)


class Artifacts:
    """Makes or reuses the dictionaries that a study needs.

    Args:
        cfg: the composed configuration.
        run: how training stages are run.
        ranks: the processes that share the study.
    """

    def __init__(self, cfg: DictConfig, run: Run, ranks: Ranks) -> None:
        self.cfg, self.runner = cfg, run
        self.store = Store(cfg.artifacts, ranks)
        self.site = config.site(cfg)
        self.lm = config.language_model(cfg).to(ranks.device)
        self.metrics: dict[str, dict[str, float]] = {}

    @cached_property
    def _tokens(self) -> tuple[TokenSplits, dict[str, Any]]:
        cfg = self.cfg
        corpus = config.corpus(cfg)
        return prepare_tokens(self.store, corpus, self.lm.tokenizer, cfg.context, cfg.splits, cfg.max_tokens)

    @property
    def splits(self) -> TokenSplits:
        """The corpus as token blocks, split by document."""
        return self._tokens[0]

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
        nfm = config.nfm(cfg, self.cfg.sae.d_sae, self.lm.d_model)
        if nfm.fit == "linear_then_interaction" and (cfg.linear or cfg.bias) and nfm.has_interaction:
            first = _changed(cfg, interaction=False)
            linear = config.nfm(first, self.cfg.sae.d_sae, self.lm.d_model)
            self._residual_model("nfm", _nfm_spec(first, linear), linear, autoencoder, stage="nfm_linear")
            nfm.load_state_dict(linear.state_dict(), strict=False)
            for parameter in (nfm.W_lin, nfm.b):
                if parameter is not None:
                    parameter.requires_grad_(False)
        self._residual_model("nfm", _nfm_spec(cfg, nfm), nfm, autoencoder, stage="nfm")
        return Autoencoder(autoencoder.normalizer, autoencoder.sae, nfm, autoencoder.plant)

    def wide_sae(self, num_parameters: int) -> Autoencoder:
        """An SAE of about `num_parameters` parameters, otherwise like the study's."""
        d_in = self.lm.d_model
        d_sae = max(self.cfg.sae.k, round((num_parameters - d_in) / (2 * d_in + 1)))
        return self._sae("wide_sae", _changed(self.cfg.sae, d_sae=d_sae))

    def control(
        self, name: str, control: LinearControl | CodesMLP, autoencoder: Autoencoder, num_parameters: int
    ) -> None:
        """Solve or train a control in place."""
        torch.manual_seed(self.cfg.seed)
        control.build(self.lm.d_model, self.cfg.sae.d_sae, num_parameters)
        if isinstance(control, LinearControl):
            self._solve(name, control, autoencoder)
        else:
            spec = {"control": name, "num_parameters": num_parameters}
            self._residual_model("control", spec, control, autoencoder, stage=name)

    def surroundings(self) -> Surroundings:
        """Mean, covariance and a bank of the site's activations."""
        evaluation = self.cfg.evaluation
        sizes = {"covariance_tokens": evaluation.covariance_tokens, "bank_tokens": evaluation.bank_tokens}

        def make(folder: Path) -> None:
            training = self._stream(self.splits.train, self.cfg.seed)
            validation = self._stream(self.splits.validation, self.cfg.seed)
            num_tokens, bank_size = evaluation.covariance_tokens, evaluation.bank_tokens
            surroundings.measure(training, validation, num_tokens, bank_size, folder)

        return surroundings.load(self.store.fetch("surroundings", self._site_spec() | sizes, make))

    def _sae(self, stage: str, cfg: DictConfig) -> Autoencoder:
        study = self.cfg
        torch.manual_seed(study.seed)
        autoencoder = Autoencoder(Normalizer(self.lm.d_model), config.sae(cfg, self.lm.d_model))
        spec = self._data_spec() | {
            "normalizer": study.normalizer,
            "sae": config.plain(cfg),
            "optimizer": config.plain(study.sae_optimizer),
            "train_tokens": study.train_tokens,
            "dead_after": study.dead_after,
        }

        def make(folder: Path) -> None:
            data = self._activations()
            sample = self._sample(data.training)
            autoencoder.normalizer.fit(sample, study.normalizer)
            autoencoder.sae.initialize_(autoencoder.normalizer(sample))
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
            train(stage, task, self._activations(), model, self.runner, folder)

        self._load(stage, self.store.fetch(kind, spec, make, together=True), model)

    def _solve(self, name: str, control: LinearControl, autoencoder: Autoencoder) -> None:
        num_tokens = self.cfg.control_tokens

        def make(folder: Path) -> None:
            stream = self._stream(self.splits.train, self.cfg.seed)
            equations = NormalEquations(control.to(self.lm.device))
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
            x = autoencoder.normalizer(self._sample(self._stream(self.splits.train, self.cfg.seed)))
            with torch.no_grad():
                codes = autoencoder.sae.encode(x)
                plant.fit(codes, autoencoder.sae.decode(codes), autoencoder.sae.d_sae, self.cfg.seed)
            save_weights(plant, folder / WEIGHTS)

        plant.restore(load_file(self.store.fetch("plant", self._on_this_sae(), make) / WEIGHTS))

    def _load(self, stage: str, folder: Path, module: nn.Module) -> None:
        load_weights(module, folder / WEIGHTS)
        self.metrics[stage] = read_metrics(folder)
        log.info("%s: %s", stage, folder)

    def _site_spec(self) -> dict[str, Any]:
        """What determines the activations of a site."""
        cfg = self.cfg
        tokens = fingerprint(self._tokens[1])
        return {
            "lm": self.lm.signature(),
            "tokens": tokens,
            "layer": cfg.layer,
            "hook": cfg.hook,
            "context": cfg.context,
            "seed": cfg.seed,
        }

    def _data_spec(self) -> dict[str, Any]:
        """What determines the training activations, the order they come in, and how they are learnt from."""
        cfg = self.cfg
        return self._site_spec() | {
            "activations": config.plain(cfg.activations),
            "objective": config.plain(cfg.objective),
            "precision": cfg.trainer.precision,
            **{name: cfg[name] for name in _ORDER_OF_DATA},
        }

    def _on_this_sae(self) -> dict[str, Any]:
        return self._data_spec() | {"sae": self.sae_fingerprint, "plant": config.plain(self.cfg.plant)}

    def _activations(self) -> ActivationModule:
        cfg = self.cfg
        validation = self._stream(self.splits.validation, None)
        return ActivationModule(
            self._training(), validation, config.pool(cfg), cfg.validation_tokens, cfg.seed
        )

    def _training(self) -> ActivationSequence:
        """The training activations, from disk where they are cached."""
        cfg, cache = self.cfg, config.activation_cache(self.cfg)
        stream = self._stream(self.splits.train, cfg.seed)
        if cache is None:
            return stream
        wanted = cache.tokens or max(cfg.train_tokens, cfg.nfm_train_tokens)
        num_tokens = min(wanted, stream.tokens_per_round)
        any_seed = self._stream(self.splits.train, 0)  # all seeds share the cache, and permute it
        spec = {name: value for name, value in self._site_spec().items() if name != "seed"}
        spec |= {"activations": config.plain(cfg.activations), "num_tokens": num_tokens}
        folder = self.store.fetch("activations", spec, lambda f: cache.write(any_seed, num_tokens, f))
        return CachedActivations(cache, folder, num_tokens, self.lm.d_model, cfg.seed, self.lm.device)

    def _stream(self, split: TokenBlocks, seed: int | None) -> ActivationStream:
        return ActivationStream(self.lm, self.site, split, self.cfg.lm_batch, seed)

    def _sample(self, stream: ActivationSequence) -> torch.Tensor:
        """The first training activations, on the CPU."""
        return stream.read(0, min(SAMPLE_TOKENS, stream.tokens_per_round)).float().cpu()


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
