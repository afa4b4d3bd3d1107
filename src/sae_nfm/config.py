"""Every object that is built of the configuration."""

import logging
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from sae_nfm.baselines.matched import Baseline
from sae_nfm.data.activations import Pool
from sae_nfm.data.cache import ActivationCache
from sae_nfm.data.corpora import Corpus
from sae_nfm.evaluation.condition import Condition
from sae_nfm.evaluation.condition import conditions as build_conditions
from sae_nfm.evaluation.reconstructions import FromMLP, FromParts, Planted, Reconstruction, WideSAE
from sae_nfm.lm.model import LanguageModel, Site
from sae_nfm.models.plant import Plant
from sae_nfm.models.residuals.nfm import NeuralFactorizationMachine
from sae_nfm.models.saes.base import SparseAutoencoder
from sae_nfm.settings.nodes import made, tried, typed
from sae_nfm.settings.schema import plain as plain
from sae_nfm.settings.schema import register as register
from sae_nfm.settings.values import NotAllowed
from sae_nfm.store.distributed import start_ranks
from sae_nfm.store.ranks import Ranks
from sae_nfm.tracking.trackers import Tracker
from sae_nfm.training.objectives.reconstruction import Reconstruction as ReconstructionObjective
from sae_nfm.training.schedule import Schedule
from sae_nfm.training.stages import Run
from sae_nfm.training.tasks import OptimizerFactory

log = logging.getLogger(__name__)
_WHERE = ("accelerator", "devices", "strategy", "num_nodes", "profiler", "detect_anomaly")
_HOW = ("precision", "deterministic", "benchmark", "plugins")


def language_model(cfg: DictConfig) -> LanguageModel:
    """The frozen model, checked to have the site, the context length and the tokens that are asked for."""
    lm: LanguageModel = made(cfg.lm)
    lm.check(site(cfg), cfg.context)
    if cfg.evaluation.top_n > lm.d_vocab:
        allowed = f"0 to {lm.d_vocab}, the tokens of {lm.path}"
        raise NotAllowed("evaluation.top_n", cfg.evaluation.top_n, allowed)
    return lm


def site(cfg: DictConfig) -> Site:
    """Where activations are read and replaced."""
    return Site(cfg.layer, cfg.hook)


def corpus(cfg: DictConfig) -> Corpus:
    """The documents."""
    return made(cfg.corpus)


def activation_cache(cfg: DictConfig) -> ActivationCache | None:
    """How training activations are kept on disk; None where they are not."""
    return None if cfg.activations is None else made(cfg.activations)


def sae(node: DictConfig, d_in: int) -> SparseAutoencoder:
    """An untrained SAE."""
    return made(node, d_in=d_in)


def nfm(node: DictConfig, d_sae: int, d_out: int) -> NeuralFactorizationMachine:
    """An untrained NFM over an SAE's latents."""
    return made(node, d_sae=d_sae, d_out=d_out)


def plant(cfg: DictConfig) -> Plant | None:
    """What is planted in place of the SAE's residual, not yet fitted; None for real activations."""
    return None if cfg.plant is None else made(cfg.plant)


def objective(cfg: DictConfig) -> ReconstructionObjective:
    """The loss of both stages."""
    return made(cfg.objective)


def optimizer(node: DictConfig) -> OptimizerFactory:
    """An optimizer that lacks its parameters."""
    return made(node)


def pool(cfg: DictConfig) -> Pool:
    """How training activations are mixed."""
    return Pool(cfg.pool_tokens, cfg.batch_tokens)


def schedule(cfg: DictConfig, setting: str, rounds: int = 1) -> Schedule:
    """The learning rate over as many whole batches as a number of tokens holds, so many rounds of it.

    Raises:
        NotAllowed: there are too few tokens for one batch.
    """
    num_tokens = cfg[setting]
    if num_tokens < cfg.batch_tokens:
        raise NotAllowed(setting, num_tokens, f"whole numbers from batch_tokens={cfg.batch_tokens}")
    return Schedule(rounds * (num_tokens // cfg.batch_tokens), cfg.warmup, cfg.decay)


def conditions(cfg: DictConfig) -> list[Condition]:
    """What the evaluation splices in."""
    baselines: dict[str, Baseline] = _named(cfg.evaluation, "baselines", "baseline")
    chosen = reconstructions(cfg)
    known = cfg.evaluation.reconstructions
    if unknown := [name for name in cfg.evaluation.matched if name not in known]:
        raise NotAllowed("evaluation.matched", unknown, f"evaluation.reconstructions={list(known)}")
    matched = [name for name in cfg.evaluation.matched if name in chosen]
    roles = {name: each.role for name, each in chosen.items()}
    return build_conditions(roles, baselines, matched, cfg.evaluation.draws)


def reconstructions(cfg: DictConfig) -> dict[str, Reconstruction]:
    """The reconstructions that the evaluation names, without those whose NFM or plant there is not."""
    named = _named(cfg.evaluation, "reconstructions", "reconstruction")
    found = {
        name: each
        for name, each in named.items()
        if (cfg.nfm is not None or not _needs_nfm(each))
        and (cfg.plant is not None or not isinstance(each, Planted))
    }
    if not found:
        allowed = "lists with one that needs neither an NFM nor a plant, where there is none"
        raise NotAllowed("evaluation.reconstructions", list(named), allowed)
    return found


def _needs_nfm(each: Reconstruction) -> bool:
    """Whether a reconstruction is made of an NFM's parts, or sized by an NFM."""
    if isinstance(each, FromParts):
        return bool(each.add)
    return isinstance(each, WideSAE) or (isinstance(each, FromMLP) and each.d_hidden is None)


def _named(evaluation: DictConfig, chosen: str, definitions: str) -> dict[str, Any]:
    available = evaluation[definitions]
    if unknown := [name for name in evaluation[chosen] if name not in available]:
        raise NotAllowed(f"evaluation.{chosen}", unknown, list(available))
    return {name: made(available[name]) for name in evaluation[chosen]}


def trainer_spec(cfg: DictConfig) -> dict[str, Any]:
    """What of the trainer's settings changes weights, as opposed to where they are trained.

    Raises:
        NotAllowed: a setting is the study's own, or would train on other steps than are recorded.
    """
    settings = {name: value for name, value in plain(cfg.trainer).items() if not name.startswith("_")}
    if refused := sorted(set(settings) - set(_WHERE) - set(_HOW)):
        raise NotAllowed(
            f"trainer.{refused[0]}",
            settings[refused[0]],
            ", ".join((*_WHERE, *_HOW)),
            "a study's length, its batches and its validations are settings of their own",
        )
    return {name: settings[name] for name in _HOW if name in settings}


def _accelerator(asked: str) -> str:
    """The accelerator, but never Apple's: it has no float64, in which all sums are kept."""
    if not torch.backends.mps.is_available() or torch.cuda.is_available():
        return asked
    if asked == "auto":
        log.info("trainer.accelerator=auto: the CPU, because Apple's MPS has no float64 to keep sums in")
        return "cpu"
    if asked in ("mps", "gpu"):
        because = "Apple's MPS has no float64 to keep sums in"
        raise NotAllowed("trainer.accelerator", asked, "cpu, auto", because)
    return asked


def run(cfg: DictConfig, tracker: Tracker, ranks: Ranks) -> Run:
    """How the stages are run, and by which processes."""
    return Run(
        trainer=made(cfg.trainer),
        logger=tracker.stage,
        gradient_clip=cfg.gradient_clip,
        checkpoint_every=cfg.checkpoint_every,
        validations=cfg.validations,
        ranks=ranks,
    )


def ranks(cfg: DictConfig) -> Ranks:
    """The processes that the trainer asks for, started.

    Raises:
        NotAllowed: the trainer's settings are none that Lightning or this machine can do.
    """
    trainer = cfg.trainer
    allowed = "what Lightning takes on this machine; trainer=cpu does on every one"
    tried(trainer, lambda make: make(logger=False, enable_checkpointing=False), allowed)
    return start_ranks(trainer.accelerator, trainer.devices, trainer.num_nodes, str(trainer.strategy))


def tracker(cfg: DictConfig, folder: Path, choices: dict[str, Any]) -> Tracker:
    """Where curves and the result go beside the run folder's own files."""
    make = Tracker if cfg.logger is None else made(cfg.logger)
    return make(folder=folder, choices=choices, settings=plain(cfg))


def check(cfg: DictConfig) -> DictConfig:
    """The configuration in the types that its parts ask for, once all is known to be allowed.

    What is cheap to build is built, so that a wrong setting is named before hours of training.

    Raises:
        NotAllowed: a setting is not.
    """
    cfg = typed(cfg)
    cfg.trainer.accelerator = _accelerator(cfg.trainer.accelerator)
    trainer_spec(cfg)
    activation_cache(cfg)
    pool(cfg)
    schedule(cfg, "train_tokens")
    with torch.device("meta"):
        sae(cfg.sae, d_in=8)
        if cfg.nfm is not None:
            nfm(cfg.nfm, d_sae=cfg.sae.d_sae, d_out=8)
            schedule(cfg, "nfm_train_tokens")
    objective(cfg)
    conditions(cfg)
    plant(cfg)
    for node in (cfg.sae_optimizer, cfg.nfm_optimizer):
        tried(node, lambda make: make([nn.Parameter(torch.zeros(1))]), f"what {node._target_} takes")
    return cfg
