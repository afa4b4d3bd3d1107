"""One study: tokens, SAE, NFM, evaluation, result."""

import logging
import time
from pathlib import Path
from typing import Any

import torch
from lightning import seed_everything
from omegaconf import DictConfig

from sae_nfm import config, result
from sae_nfm.data.activations import ActivationModule
from sae_nfm.data.tokens import prepare_tokens
from sae_nfm.evaluation.summary import Summary
from sae_nfm.evaluation.task import EvaluationTask, ScoredBlocks
from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.normalizer import Normalizer
from sae_nfm.report.figures import draw_figures
from sae_nfm.report.html import write_report
from sae_nfm.report.tables import print_ratios
from sae_nfm.store import Store, fingerprint
from sae_nfm.training.callbacks import progress_bar
from sae_nfm.training.stages import WEIGHTS, Run, load_weights, read_metrics, train
from sae_nfm.training.tasks import NFMTask, SAETask

log = logging.getLogger(__name__)
SAMPLE_TOKENS = 32768
"""Training activations that the normaliser and the decoder bias are fitted on."""


class Study:
    """The stages of one study in order; `run` is their table of contents.

    Args:
        cfg: the composed configuration.
        folder: where results are written.
        origin: `command` and `choices`, what the configuration was composed from.
    """

    def __init__(self, cfg: DictConfig, folder: Path, origin: dict[str, Any]) -> None:
        self.cfg, self.folder, self.origin = cfg, folder, origin
        self.store = Store(cfg.artifacts)
        self.site = config.site(cfg)
        self.runner: Run = config.run(cfg, folder)

    def run(self) -> dict[str, Any]:
        """Make or reuse what the study needs, evaluate it, and write the result and the report."""
        started = time.perf_counter()
        config.check(self.cfg)
        seed_everything(self.cfg.seed, verbose=False)
        self.lm = config.language_model(self.cfg)
        self.splits, self.tokens_spec = self.tokens()
        self.data_spec = self._data_spec()
        autoencoder = self.sae()
        if self.cfg.nfm is not None:
            autoencoder = self.nfm(autoencoder)
        task = self.evaluate(autoencoder)
        found = self.result(task, started)
        if self.is_first_process:
            self.report(found)
        return found

    def tokens(self) -> Any:
        """The corpus as token blocks, split by document."""
        cfg = self.cfg
        return prepare_tokens(
            self.store, config.corpus(cfg), self.lm.tokenizer, cfg.context, cfg.splits, cfg.max_tokens
        )

    def sae(self) -> Autoencoder:
        """The trained SAE with its normaliser."""
        cfg = self.cfg
        torch.manual_seed(cfg.seed)
        autoencoder = Autoencoder(Normalizer(self.lm.d_model), config.sae(cfg, self.lm.d_model))
        self.sae_spec = {
            **self.data_spec,
            "normalizer": cfg.normalizer,
            "sae": config.plain(cfg.sae),
            "optimizer": config.plain(cfg.sae_optimizer),
            "train_tokens": cfg.train_tokens,
            "dead_after": cfg.dead_after,
        }

        def make(folder: Path) -> None:
            data = self._activations()
            self._fit_to_sample(autoencoder, data)
            schedule = config.schedule(cfg, "train_tokens")
            optimizer = config.optimizer(cfg.sae_optimizer)
            task = SAETask(autoencoder, config.objective(cfg), optimizer, schedule, cfg.seed, cfg.dead_after)
            train("sae", task, data, autoencoder, self.runner, folder)

        folder = self.store.fetch("sae", self.sae_spec, make)
        load_weights(autoencoder, folder / WEIGHTS)
        self.sae_metrics = read_metrics(folder)
        log.info("SAE: %s", folder)
        return autoencoder

    def nfm(self, autoencoder: Autoencoder) -> Autoencoder:
        """The same with an NFM trained on the SAE's residual."""
        cfg = self.cfg
        torch.manual_seed(cfg.seed)
        nfm = config.nfm(cfg, self.lm.d_model)
        both = Autoencoder(autoencoder.normalizer, autoencoder.sae, nfm)
        self.nfm_spec = {
            "sae": fingerprint(self.sae_spec),
            "nfm": config.plain(cfg.nfm),
            "optimizer": config.plain(cfg.nfm_optimizer),
            "train_tokens": cfg.nfm_train_tokens,
            **self.data_spec,
        }

        def make(folder: Path) -> None:
            schedule = config.schedule(cfg, "nfm_train_tokens")
            optimizer = config.optimizer(cfg.nfm_optimizer)
            task = NFMTask(both, config.objective(cfg), optimizer, schedule, cfg.seed)
            train("nfm", task, self._activations(), nfm, self.runner, folder)

        folder = self.store.fetch("nfm", self.nfm_spec, make)
        load_weights(nfm, folder / WEIGHTS)
        self.nfm_metrics = read_metrics(folder)
        log.info("NFM: %s", folder)
        return both

    def evaluate(self, autoencoder: Autoencoder) -> EvaluationTask:
        """Splice every condition into the model over held-out documents."""
        cfg, evaluation = self.cfg, self.cfg.evaluation
        scored = ScoredBlocks(
            self.splits.test, cfg.eval_tokens, evaluation.bos == "patch", evaluation.batch_size
        )
        if scored.num_tokens < cfg.eval_tokens:
            log.warning(
                "eval_tokens=%d: the test split holds %d, which are used", cfg.eval_tokens, scored.num_tokens
            )
        task = EvaluationTask(
            self.lm, self.site, autoencoder, scored, config.conditions(cfg), config.reconstructions(cfg),
            evaluation.rows, cfg.seed,
        )  # fmt: skip
        trainer = self.runner.trainer(
            precision="32-true", logger=False, callbacks=[progress_bar()], default_root_dir=self.folder
        )
        self.is_first_process = trainer.is_global_zero
        trainer.test(task, verbose=False)
        return task

    def result(self, task: EvaluationTask, started: float) -> dict[str, Any]:
        """Everything that `result.json` holds."""
        cfg = self.cfg
        summary = Summary(task.conditions, task.sums.compute(), cfg.evaluation.resamples, cfg.seed)
        quality = task.quality.compute()
        found = result.findings(summary)
        measurements = sum(entry["n"] for name, entry in found["conditions"].items() if name != "clean")
        return {
            "schema": result.SCHEMA,
            "name": cfg.name,
            "seed": cfg.seed,
            "fingerprint": fingerprint({"settings": config.plain(cfg)}),
            **self.origin,
            "lm": {
                "path": self.lm.path,
                "dtype": self.lm.dtype,
                "n_layers": self.lm.n_layers,
                "d_model": self.lm.d_model,
                "d_vocab": self.lm.d_vocab,
                "clean_ce": found["conditions"]["clean"]["ce"],
            },
            "site": {"layer": cfg.layer, "hook": cfg.hook},
            "corpus": config.plain(cfg.corpus),
            "context": cfg.context,
            "positions": task.scored.num_tokens,
            "documents": len(summary.tokens),
            "measurements": measurements,
            "sae": self._sae_entry(quality),
            "nfm": None if cfg.nfm is None else self._nfm_entry(quality),
            "evaluation": {key: cfg.evaluation[key] for key in ("draws", "bos")},
            **found,
            "timing": {
                "sae_tokens_per_s": self.sae_metrics["tokens_per_s"],
                "nfm_tokens_per_s": None if cfg.nfm is None else self.nfm_metrics["tokens_per_s"],
                "eval_measurements_per_s": measurements / task.seconds,
                "wall_s": time.perf_counter() - started,
            },
            "environment": result.environment(self.lm.device),
            "settings": config.plain(cfg),
        }

    def report(self, found: dict[str, Any]) -> None:
        """Write the result and show it."""
        result.write(found, self.folder)
        draw_figures(found, self.folder / "figures")
        page = write_report(found, self.folder)
        print_ratios(found)
        print(f"report: {page}")

    def _sae_entry(self, quality: dict[str, float | None]) -> dict[str, Any]:
        keys = ("l0", "explained_variance", "mse", "dead_fraction")
        return {
            "d_sae": self.cfg.sae.d_sae,
            "k": self.cfg.sae.k,
            **{key: quality[key] for key in keys},
            "train_tokens": int(self.sae_metrics["train_tokens"]),
        }

    def _nfm_entry(self, quality: dict[str, float | None]) -> dict[str, Any]:
        nfm = self.cfg.nfm
        return {
            **{key: nfm[key] for key in ("order", "d_embed", "linear", "interaction")},
            **{key: quality[key] for key in ("residual_explained", "interaction_share")},
            "train_tokens": int(self.nfm_metrics["train_tokens"]),
        }

    def _data_spec(self) -> dict[str, Any]:
        """What determines the training activations and the order they come in."""
        cfg = self.cfg
        names = (
            "layer",
            "hook",
            "context",
            "batch_tokens",
            "pool_tokens",
            "warmup",
            "decay",
            "gradient_clip",
            "seed",
        )
        return {
            "lm": self.lm.signature(),
            "tokens": self.tokens_spec,
            "objective": config.plain(cfg.objective),
            "precision": cfg.trainer.precision,
            **{name: cfg[name] for name in names},
        }

    def _activations(self) -> ActivationModule:
        cfg = self.cfg
        return ActivationModule(
            self.lm, self.site, self.splits, config.pool(cfg), cfg.lm_batch, cfg.validation_tokens, cfg.seed
        )

    def _fit_to_sample(self, autoencoder: Autoencoder, data: ActivationModule) -> None:
        sample = data.sample(min(SAMPLE_TOKENS, data.training.tokens_per_round)).float()
        autoencoder.normalizer.fit(sample.cpu(), self.cfg.normalizer)
        autoencoder.sae.initialize_(autoencoder.normalizer(sample.cpu()))
