"""Every object that is built of the configuration."""

import copy
import logging
import shlex
from collections.abc import Callable, Iterable, Mapping
from inspect import isclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal

import torch
from lightning import Callback, Trainer
from lightning.pytorch.profilers import SimpleProfiler
from omegaconf import DictConfig
from torch import nn

from sae_nfm.attribution.interactions import Interactions
from sae_nfm.baselines.matched import Baseline
from sae_nfm.data.activations import Pool
from sae_nfm.data.cache import ActivationCache
from sae_nfm.data.corpora import Corpus
from sae_nfm.evaluation.blocks import ScoredBlocks
from sae_nfm.evaluation.condition import Condition
from sae_nfm.evaluation.condition import conditions as build_conditions
from sae_nfm.evaluation.reconstructions import Reconstruction
from sae_nfm.evaluation.task import Settings
from sae_nfm.findings.warnings import FEW_DOCUMENTS
from sae_nfm.interop.fits import check_fits
from sae_nfm.interop.published import Published
from sae_nfm.lm.load import is_config_alone
from sae_nfm.lm.model import LanguageModel
from sae_nfm.lm.passage import Passage
from sae_nfm.lm.site import Site
from sae_nfm.models.least_squares import bytes_of, check_memory
from sae_nfm.models.residuals.base import ResidualModel
from sae_nfm.models.saes.base import SparseAutoencoder
from sae_nfm.recipes.activations import SiteActivations
from sae_nfm.recipes.curriculum import (
    SEQUENTIAL,
    check_course,
    course,
    learning,
    trained_together,
    trainer_spec,
)
from sae_nfm.recipes.published import PublishedSAE
from sae_nfm.recipes.sae import TrainedSAE
from sae_nfm.recipes.training import check_retrainable
from sae_nfm.recipes.workshop import Order, Workshop
from sae_nfm.settings.nodes import made, tried, typed
from sae_nfm.settings.schema import plain as plain
from sae_nfm.settings.schema import register as register
from sae_nfm.settings.values import NotAllowed, missing
from sae_nfm.stages.attribute import Attribute, Attribution
from sae_nfm.stages.evaluate import Evaluate
from sae_nfm.stages.stage import Stage
from sae_nfm.stages.train import Train
from sae_nfm.store.company import ALONE, Company
from sae_nfm.store.distributed import start_ranks
from sae_nfm.store.ranks import Ranks
from sae_nfm.store.store import Store, fingerprint
from sae_nfm.tracking.trackers import Tracker
from sae_nfm.training.objectives.behaviour import Behaviour
from sae_nfm.training.run import Run

log = logging.getLogger(__name__)
_REPORTED = ("draws", "bos", "replace", "corpus", "context")
_MUCH = 1e9  # bytes


def language_model(cfg: DictConfig, company: Company = ALONE) -> LanguageModel:
    """The frozen model, checked to have the site, the context length and the tokens that are asked for.

    For a plan, a folder without weights will do.
    """
    blank = cfg.plan and is_config_alone(cfg.lm.path)
    which = fingerprint({"lm": plain(cfg.lm), "blank": blank})
    lm: LanguageModel = company.kept(which, lambda: made(cfg.lm, blank=blank))
    lm.check(site(cfg), cfg.context)
    if cfg.evaluation.top_n > lm.d_vocab:
        allowed = f"0 to {lm.d_vocab}, the tokens of {lm.path}"
        raise NotAllowed("evaluation.top_n", cfg.evaluation.top_n, allowed)
    return lm


def site(cfg: DictConfig) -> Site:
    """Where activations are read and replaced."""
    return Site(cfg.layer, cfg.hook)


def activations(cfg: DictConfig, store: Store, device: Any, company: Company = ALONE) -> SiteActivations:
    """The activations of the study's site."""
    lm = language_model(cfg, company).to(device)
    how = (corpus(cfg), activation_cache(cfg), pool(cfg), company)
    return SiteActivations(cfg, store, lm, site(cfg), *how)


def corpus(cfg: DictConfig) -> Corpus:
    """The documents."""
    return made(cfg.corpus)


def activation_cache(cfg: DictConfig) -> ActivationCache | None:
    """How training activations are kept on disk; None where they are not."""
    return None if cfg.activations is None else made(cfg.activations)


def is_trained_here(cfg: DictConfig) -> bool:
    """Whether `sae` is a family to train; otherwise it is a function that reads a published SAE."""
    return isclass(resolve_name(cfg.sae._target_))


def sae(node: DictConfig, d_in: int) -> SparseAutoencoder:
    """An untrained SAE."""
    return made(node, d_in=d_in)


def nfm(node: DictConfig, d_sae: int, d_out: int) -> ResidualModel:
    """An untrained NFM over an SAE's latents."""
    return made(node, d_sae=d_sae, d_out=d_out)


def pool(cfg: DictConfig) -> Pool:
    """How training activations are mixed."""
    return Pool(cfg.pool_tokens, cfg.batch_tokens)


def workshop(cfg: DictConfig, tracker: Tracker, ranks: Ranks, company: Company = ALONE) -> Workshop:
    """Where the study's things are made, and how exactly this process multiplies."""
    torch.set_float32_matmul_precision(cfg.matmul_precision)
    store = Store(cfg.artifacts or tracker.folder / "artifacts", ranks, cfg.verify, company)
    at, how = activations(cfg, store, ranks.device, company), run(cfg, tracker, ranks)
    trained = trained_sae(cfg, at, how) if is_trained_here(cfg) else None
    sae = trained or published_sae(cfg, at)
    sizes = (cfg.evaluation.covariance_tokens, cfg.evaluation.bank_tokens)
    order = Order(
        course=course(cfg),
        sequential=course(cfg, SEQUENTIAL),
        sae=sae,
        sae_node=dict(sae.node),
        trained=trained,
        nfm_node=plain(cfg.nfm),
        nfm=lambda node, d_sae, d_out: nfm(_changed(cfg.nfm, node), d_sae, d_out),
        plant=None if cfg.plant is None else lambda: made(cfg.plant),
        plant_node=plain(cfg.plant),
        linear_tokens=cfg.linear_tokens,
        surroundings=sizes,
    )
    return Workshop(store, at, how, order)


def trained_sae(cfg: DictConfig, at: SiteActivations, how: Run) -> TrainedSAE:
    """The recipe of an SAE that is trained here."""
    return TrainedSAE(
        name="sae",
        node=plain(cfg.sae),
        build=lambda node, d_in: made(_changed(cfg.sae, node), d_in=d_in),
        normalizer=cfg.normalizer,
        learning=learning(cfg, "sae_objective", "train_tokens", "sae_optimizer", fits=True),
        activations=at,
        run=how,
    )


def published_sae(cfg: DictConfig, at: SiteActivations) -> PublishedSAE:
    """The recipe of an SAE that was trained elsewhere.

    Raises:
        NotAllowed: it is of another width or another site.
    """
    read: Published = made(cfg.sae)
    check_fits(read, at.lm.d_model, at.site)
    return PublishedSAE(at, read)


def at_its_site(cfg: DictConfig) -> DictConfig:
    """The configuration with the layer and the hook that a published SAE's files give, where it has none."""
    if cfg.layer is not None and cfg.hook is not None:
        return cfg
    if is_trained_here(cfg):
        raise missing("layer" if cfg.layer is None else "hook")
    claims = made(cfg.sae).claims
    for setting, said in (("layer", claims.layer), ("hook", claims.hook)):
        if cfg[setting] is None and said is None:
            raise NotAllowed(
                setting, None, f"the {setting} that it was trained at", "the SAE's files do not say"
            )
        cfg[setting] = said if cfg[setting] is None else cfg[setting]
    return cfg


def stages(cfg: DictConfig, workshop: Workshop, folder: Path) -> list[Stage]:
    """What the study does, in order; what can be known to be wrong is told before anything is made."""
    evaluate = evaluation(cfg, workshop, folder)
    _check_memory(cfg, evaluate.reconstructions.values(), workshop)
    _check_passages(workshop)
    return [*training(workshop), evaluate, *attribution(cfg, workshop, folder)]


def training(workshop: Workshop) -> list[Stage]:
    """The stages that train, or find, the study's dictionary."""
    return [*map(Train, workshop.order.course)]


def attribution(cfg: DictConfig, workshop: Workshop, folder: Path) -> list[Stage]:
    """The stage that attributes the NFM's gain, where the study asks for it."""
    if cfg.attribution is None:
        return []
    how: Attribution = made(cfg.attribution)
    if how.further_seeds:
        check_retrainable(workshop.order.course)
    _check_passage(workshop, reads_streams=False)
    about = fingerprint({"settings": plain(cfg)})
    return [Attribute(scored_blocks(cfg, workshop, how.tokens, "attribution.tokens"), how, about, folder)]


def evaluation(cfg: DictConfig, workshop: Workshop, folder: Path) -> Evaluate:
    """How the dictionaries are judged."""
    chosen = cfg.evaluation
    scored = scored_blocks(cfg, workshop, cfg.eval_tokens, "eval_tokens", chosen.replace)
    export = folder / "tokens" if chosen.save_tokens else None
    return Evaluate(
        scored=scored,
        asked=cfg.eval_tokens,
        conditions=conditions(cfg),
        reconstructions=reconstructions(cfg),
        settings=Settings(chosen.rows, chosen.top_n, export, cfg.seed),
        reported={name: plain(chosen[name]) for name in _REPORTED},
        folder=folder,
    )


def scored_blocks(
    cfg: DictConfig,
    workshop: Workshop,
    num_tokens: int,
    setting: str,
    replace: Literal["all", "single"] = "all",
) -> ScoredBlocks:
    """The held-out blocks of an evaluation, with so many scored tokens.

    Raises:
        NotAllowed: all that would be scored is of one document, so that nothing could be said of the spread.
    """
    chosen = cfg.evaluation
    if chosen.context is not None:
        workshop.activations.lm.check(workshop.activations.site, chosen.context)
    other = None if chosen.corpus is None else made(chosen.corpus)
    blocks = workshop.activations.others(other, chosen.context).test
    patched = chosen.bos == "patch"
    scored = ScoredBlocks(blocks, num_tokens, patched, replace, chosen.position, chosen.batch_size)
    if scored.num_tokens < num_tokens:
        workshop.warn(f"{setting}={num_tokens}: the test split holds {scored.num_tokens}, which are used")
    if scored.is_one_document():
        allowed = f"so many that they come from 2, and for intervals to be right from {FEW_DOCUMENTS}"
        because = "the scored tokens come from 1 document"
        raise NotAllowed(setting, num_tokens, allowed, because)
    return scored


def _check_memory(cfg: DictConfig, asked: Iterable[Reconstruction], workshop: Workshop) -> None:
    """Raise a `NotAllowed` where a linear part will not fit; say what it takes, where that is much."""
    solved_first = cfg.nfm is not None and cfg.nfm.linear and cfg.nfm.fit != "together"
    if workshop.activations.lm.blank:
        return  # planned for another machine than this
    if solved_first or any("latent_solution" in each.needs for each in asked):
        device = workshop.activations.lm.device
        check_memory(workshop.order.sae.d_sae, device)
        needed = bytes_of(workshop.order.sae.d_sae)
        if needed > _MUCH:
            log.info("solving a linear part will take %.1f GB on %s", needed / 1e9, device)


def _check_passages(workshop: Workshop) -> None:
    """Raise a `NotAllowed` where the model cannot be trained through for what is asked."""
    for step in workshop.order.course:
        if step.learning is not None and isinstance(step.learning.objective, Behaviour):
            _check_passage(workshop, step.learning.objective.reads_streams)


def _check_passage(workshop: Workshop, reads_streams: bool) -> None:
    at = workshop.activations
    if at.lm.blank:
        return
    passage = Passage(at.lm, at.site, reads_streams)
    passage.check(at.lm.prefix(at.splits.test.tokens([0]), at.site))


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
    there_is = {
        **trained_together(cfg),
        "nfm": cfg.nfm is not None,
        "plant": cfg.plant is not None,
        "trained_sae": is_trained_here(cfg),
    }
    absent = {need for need, there in there_is.items() if not there}
    named: dict[str, Reconstruction] = _named(cfg.evaluation, "reconstructions", "reconstruction")
    found = {name: each for name, each in named.items() if not each.needs & absent}
    if not found:
        allowed = "lists with one that needs neither an NFM nor a plant, where there is none"
        raise NotAllowed("evaluation.reconstructions", list(named), allowed)
    return found


def _named(evaluation: DictConfig, chosen: str, definitions: str) -> dict[str, Any]:
    available = evaluation[definitions]
    if unknown := [name for name in evaluation[chosen] if name not in available]:
        raise NotAllowed(f"evaluation.{chosen}", unknown, list(available))
    return {name: made(available[name]) for name in evaluation[chosen]}


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
        trainer=trainer(cfg, tracker.folder),
        callbacks=lambda: callbacks(cfg),
        logger=tracker.stage,
        gradient_clip=cfg.gradient_clip,
        checkpoint_every=cfg.checkpoint_every,
        validations=cfg.validations,
        ranks=ranks,
    )


def trainer(cfg: DictConfig, folder: Path) -> Callable[..., Trainer]:
    """A Lightning `Trainer` that lacks what a stage gives it; with `profile=true` each writes its profile.

    Args:
        cfg: the composed configuration.
        folder: of the study.
    """
    make = made(cfg.trainer)
    if not cfg.profile:
        return make
    return lambda **given: make(profiler=SimpleProfiler(folder, "profile", extended=True), **given)


def callbacks(cfg: DictConfig) -> list[Callback]:
    """The user's own Lightning callbacks, new at every call."""
    return [made(node) for node in cfg.callbacks.values()]


def ranks(cfg: DictConfig) -> Ranks:
    """The processes that the trainer asks for, started.

    Raises:
        NotAllowed: the trainer's settings are none that Lightning or this machine can do.
    """
    trainer = cfg.trainer
    allowed = "what Lightning takes on this machine; trainer=cpu does on every one"
    tried(trainer, lambda make: make(logger=False, enable_checkpointing=False), allowed)
    return start_ranks(trainer.accelerator, trainer.devices, trainer.num_nodes, str(trainer.strategy))


def tracker(cfg: DictConfig, folder: Path, choices: Mapping[str, Any], command: str = "") -> Tracker:
    """Where curves and the result go beside the run folder's own files.

    Args:
        cfg: the composed configuration.
        folder: of the study.
        choices: the option taken for every config group.
        command: whose settings are shown, whatever they are.
    """
    make = Tracker if cfg.logger is None else made(cfg.logger)
    given = [word.partition("=")[0].lstrip("+~") for word in shlex.split(command) if "=" in word]
    return make(folder=folder, choices=choices, settings=plain(cfg), given=given)


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
    cfg = at_its_site(cfg)
    check_course(cfg)
    with torch.device("meta"):
        if is_trained_here(cfg):
            sae(cfg.sae, d_in=8)
        model = None if cfg.nfm is None else nfm(cfg.nfm, 8, 8)
        if cfg.attribution is not None:
            Interactions(model, torch.ones(8))
            made(cfg.attribution)
    conditions(cfg)
    callbacks(cfg)
    if cfg.plant is not None:
        made(cfg.plant)
    for node in (cfg.sae_optimizer, cfg.nfm_optimizer, cfg.tuning_optimizer):
        tried(node, lambda make: make([nn.Parameter(torch.zeros(1))]), f"what {node._target_} takes")
    return cfg


def _changed(node: DictConfig, settings: Mapping[str, Any]) -> DictConfig:
    """A config node with some settings changed; it still knows where it stands."""
    changed = copy.deepcopy(node)
    for name, value in settings.items():
        changed[name] = value
    return changed
