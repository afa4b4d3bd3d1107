"""One study: tokens, SAE, NFM, evaluation, result."""

import logging
import shlex
import time
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning import seed_everything
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from sae_nfm import config
from sae_nfm.artifacts import Artifacts
from sae_nfm.baselines.surroundings import Surroundings
from sae_nfm.evaluation.blocks import ScoredBlocks
from sae_nfm.evaluation.condition import Condition
from sae_nfm.evaluation.reconstructions import FromControl, FromMLP, Reconstruction, WideSAE
from sae_nfm.evaluation.task import EvaluationTask, Settings
from sae_nfm.findings import result
from sae_nfm.findings.summary import Summary
from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.recipes.site import SiteActivations
from sae_nfm.report.html import write_report
from sae_nfm.report.tables import print_ratios
from sae_nfm.settings.schema import given
from sae_nfm.settings.values import NotAllowed
from sae_nfm.store.files import write_atomically
from sae_nfm.store.store import Store, fingerprint
from sae_nfm.tracking.trackers import Tracker
from sae_nfm.training.callbacks import progress_bar
from sae_nfm.training.stages import Run

log = logging.getLogger(__name__)
FEW_DOCUMENTS = 200
"""Below, intervals over documents of very unequal lengths are a little too narrow."""


def run_study(cfg: DictConfig) -> None:
    """Run the study that Hydra composed, in its output folder."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    command = shlex.join(["python", "-m", "sae_nfm", *given(hydra.overrides.task)])
    choices = {name: choice for name, choice in hydra.runtime.choices.items() if "hydra" not in name}
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    if rank_zero_only.rank:  # the others speak to their log files only, errors apart
        for handler in logging.getLogger().handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.ERROR)
    Study(cfg, folder, {"command": command, "choices": choices}).run()


NOISY = 0.01
"""Share of a KL that rounding may make up without a warning."""


class Study:
    """The stages of one study in order; `run` is their table of contents.

    Args:
        cfg: the composed configuration.
        folder: where results are written.
        origin: `command` and `choices`, what the configuration was composed from.
    """

    def __init__(self, cfg: DictConfig, folder: Path, origin: dict[str, Any]) -> None:
        self.cfg, self.folder, self.origin = cfg, folder, origin

    def run(self) -> dict[str, Any]:
        """Make or reuse what the study needs, evaluate it, and write the result and the report."""
        started = time.perf_counter()
        self.cfg = config.check(self.cfg)
        rank_zero_only(write_atomically)(self.folder / "config.yaml", OmegaConf.to_yaml(self.cfg))
        self.ranks = config.ranks(self.cfg)
        settings = fingerprint({"settings": config.plain(self.cfg)})
        log.info("process %d of %d, settings %s", self.ranks.rank + 1, self.ranks.world_size, settings)
        self.ranks.check_equal(settings)
        seed_everything(self.cfg.seed, verbose=False)
        self.tracker: Tracker = config.tracker(self.cfg, self.folder, self.origin["choices"])
        self.runner: Run = config.run(self.cfg, self.tracker, self.ranks)
        self.activations = SiteActivations(
            self.cfg, Store(self.cfg.artifacts, self.ranks, self.cfg.verify), self.ranks.device
        )
        self.artifacts = Artifacts(self.cfg, self.activations, self.runner)
        self.scored = self.scored_blocks()
        self.artifacts.check_memory()
        self.ranks.from_first(self.activations.check_finite)
        autoencoder = self.artifacts.sae()
        if self.cfg.nfm is not None:
            autoencoder = self.artifacts.nfm(autoencoder)
        reconstructions = self.controls(autoencoder)
        task = self.evaluate(autoencoder, reconstructions)
        found = self.ranks.from_first(lambda: self.result(task, started))
        if self.ranks.is_first:
            self.report(found)
        return found

    def scored_blocks(self) -> ScoredBlocks:
        """What will be scored, looked at before anything is trained.

        Raises:
            NotAllowed: it is all of one document, so that nothing could be said about the spread.
        """
        cfg, evaluation = self.cfg, self.cfg.evaluation
        scored = ScoredBlocks(
            self.activations.splits.test,
            cfg.eval_tokens,
            evaluation.bos == "patch",
            evaluation.replace,
            evaluation.position,
            evaluation.batch_size,
        )
        if scored.num_tokens < cfg.eval_tokens:
            log.warning(
                "eval_tokens=%d: the test split holds %d, which are used", cfg.eval_tokens, scored.num_tokens
            )
        if scored.is_one_document():
            allowed = f"so many that they come from 2, and for intervals to be right from {FEW_DOCUMENTS}"
            because = "the scored tokens come from 1 document"
            raise NotAllowed("eval_tokens", cfg.eval_tokens, allowed, because)
        return scored

    def controls(self, autoencoder: Autoencoder) -> dict[str, Reconstruction]:
        """The reconstructions to evaluate, with the controls among them trained or solved."""
        reconstructions = config.reconstructions(self.cfg)
        nfm = autoencoder.nfm
        size = 0 if nfm is None else sum(parameter.numel() for parameter in nfm.parameters())
        for name, reconstruction in reconstructions.items():
            if isinstance(reconstruction, WideSAE):
                sae = sum(parameter.numel() for parameter in autoencoder.sae.parameters())
                reconstruction.autoencoder = self.artifacts.wide_sae(sae + size)
            elif isinstance(reconstruction, FromMLP):
                reconstruction.autoencoder = autoencoder
                reconstruction.control = self.artifacts.codes_mlp(name, reconstruction, autoencoder, size)
            elif isinstance(reconstruction, FromControl):
                reconstruction.autoencoder = autoencoder
                self.artifacts.linear_control(name, reconstruction.control, autoencoder)
        return reconstructions

    def evaluate(
        self, autoencoder: Autoencoder, reconstructions: dict[str, Reconstruction]
    ) -> EvaluationTask:
        """Splice every condition into the model over held-out documents."""
        cfg, evaluation = self.cfg, self.cfg.evaluation
        named = config.conditions(cfg)
        export = self.folder / "tokens" if evaluation.save_tokens else None
        settings = Settings(evaluation.rows, evaluation.top_n, export, cfg.seed)
        lm, site = self.activations.lm, self.activations.site
        around = self._surroundings(named)
        task = EvaluationTask(lm, site, autoencoder, self.scored, named, reconstructions, around, settings)
        trainer = self.runner.trainer(
            precision="32-true", logger=False, callbacks=[progress_bar()], default_root_dir=self.folder
        )
        trainer.test(task, verbose=False)
        return task

    def result(self, task: EvaluationTask, started: float) -> dict[str, Any]:
        """Everything that `result.json` holds."""
        cfg, lm, evaluation = self.cfg, self.activations.lm, self.cfg.evaluation
        sums = task.sums.compute()
        summary = Summary(task.conditions, sums, evaluation.top_n)
        if len(summary.tokens) < FEW_DOCUMENTS:
            self.artifacts.warn(
                f"eval_tokens={cfg.eval_tokens}: from {len(summary.tokens)} documents; below "
                f"{FEW_DOCUMENTS}, intervals over documents may be too narrow"
            )
        quality = task.quality.compute()
        found = result.findings(summary)
        replaced = {n: c for n, c in found["conditions"].items() if n not in ("clean", "identity")}
        self._warn_of_noise(found["noise_floor"], replaced)
        measurements = sum(entry["n"] for entry in replaced.values())
        keys = ("path", "dtype", "n_layers", "d_model", "d_vocab")
        return {
            "schema": result.SCHEMA,
            "name": cfg.name,
            "seed": cfg.seed,
            "fingerprint": fingerprint({"settings": config.plain(cfg)}),
            **self.origin,
            "lm": {**{key: getattr(lm, key) for key in keys}, "clean_ce": found["conditions"]["clean"]["ce"]},
            "site": {"layer": cfg.layer, "hook": cfg.hook},
            "corpus": config.plain(cfg.corpus),
            "context": cfg.context,
            "positions": task.scored.num_tokens,
            "documents": len(summary.tokens),
            "measurements": measurements,
            "sae": self._sae_entry(quality),
            "nfm": None if cfg.nfm is None else self._nfm_entry(quality),
            "evaluation": {
                "draws": evaluation.draws,
                "bos": evaluation.bos,
                "replace": evaluation.replace,
                "position": task.scored.single,
            },
            **found,
            "planted": result.planted(summary, task.autoencoder.plant),
            "validation": self.artifacts.metrics,
            "warnings": self.artifacts.warnings,
            "timing": self._timing(measurements / task.seconds, time.perf_counter() - started),
            "environment": result.environment(lm.device),
            "settings": config.plain(cfg),
        }

    def report(self, found: dict[str, Any]) -> None:
        """Write the result, show it, and hand it on."""
        path = result.write(found, self.folder)
        print_ratios(found)
        try:
            print(f"report: {write_report(found, self.folder)}")
        except OSError as error:  # as of a full disk: what was found is not lost with its page
            log.warning("there is no report of %s: %s", path, error)
        self.tracker.result(found)

    def _surroundings(self, named: list[Condition]) -> Surroundings | None:
        """Read the site's surroundings if a condition asks for them."""
        asked = "mean" in self.cfg.evaluation.reconstructions
        asked = asked or any(c.baseline is not None and c.baseline.needs != "nothing" for c in named)
        return self.activations.surroundings() if asked else None

    def _warn_of_noise(self, floor: float | None, replaced: dict[str, Any]) -> None:
        """Warn where rounding alone is a noticeable part of the smallest KL."""
        smallest = min(replaced, key=lambda name: replaced[name]["kl"]["mean"])
        kl = replaced[smallest]["kl"]["mean"]
        if floor is not None and abs(floor) > NOISY * kl:
            self.artifacts.warn(
                f"lm.dtype={self.cfg.lm.dtype}: where nothing is replaced the KL is {floor:.3g} nats/token "
                f"by rounding alone, {abs(floor) / kl:.1%} of KL({smallest}); a wider lm.dtype lowers it"
            )

    def _timing(self, measurements_per_s: float, wall_s: float) -> dict[str, float | None]:
        metrics = self.artifacts.metrics
        return {
            "sae_tokens_per_s": metrics["sae"]["tokens_per_s"],
            "nfm_tokens_per_s": metrics["nfm"]["tokens_per_s"] if "nfm" in metrics else None,
            "eval_measurements_per_s": measurements_per_s,
            "wall_s": wall_s,
        }

    def _sae_entry(self, quality: dict[str, float | None]) -> dict[str, Any]:
        keys = ("l0", "explained_variance", "mse", "dead_fraction")
        return {
            "d_sae": self.cfg.sae.d_sae,
            "k": self.cfg.sae.k,
            **{key: quality[key] for key in keys},
            "train_tokens": int(self.artifacts.metrics["sae"]["train_tokens"]),
        }

    def _nfm_entry(self, quality: dict[str, float | None]) -> dict[str, Any]:
        nfm = self.cfg.nfm
        return {
            **{key: nfm[key] for key in ("order", "d_embed", "linear", "interaction", "fit")},
            **{key: quality[key] for key in ("residual_explained", "interaction_share")},
            "train_tokens": int(self.artifacts.metrics["nfm"]["train_tokens"]),
        }
