"""The training stages that a configuration asks for."""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sae_nfm.recipes.course import Step
from sae_nfm.settings.nodes import made
from sae_nfm.settings.schema import plain
from sae_nfm.settings.values import NotAllowed
from sae_nfm.training.learning import Learning
from sae_nfm.training.objectives.behaviour import Behaviour
from sae_nfm.training.objectives.reconstruction import Reconstruction
from sae_nfm.training.parts import Part

_WHERE = ("accelerator", "devices", "strategy", "num_nodes", "profiler", "detect_anomaly")
HOW = ("precision", "deterministic", "benchmark", "plugins")
"""What of a trainer's settings changes weights."""
_HALVES = ("bf16-true", "16-true")
_LEARNING = (
    *("batch_tokens", "pool_tokens", "warmup", "decay", "gradient_clip"),
    *("validations", "validation_tokens"),  # they choose among the weights of a run
)


def objective(cfg: DictConfig, setting: str) -> Reconstruction | Behaviour:
    """What a setting names among the objectives.

    Raises:
        NotAllowed: there is none of that name.
    """
    name = OmegaConf.select(cfg, setting)
    if name not in cfg.objectives:
        raise NotAllowed(setting, name, list(cfg.objectives))
    return made(cfg.objectives[name])


def learning(
    cfg: DictConfig,
    objective_setting: str,
    tokens_setting: str,
    optimizer_setting: str,
    fits: bool = False,
    tunes: bool = False,
) -> Learning:
    """How parts of a dictionary learn.

    Args:
        cfg: the composed configuration.
        objective_setting: names what for.
        tokens_setting: says on how many tokens.
        optimizer_setting: by which optimizer.
        fits: whether it fits a reconstruction first, where the objective is one through the model.
        tunes: whether it goes on from what is trained.
    """
    name, chosen = OmegaConf.select(cfg, objective_setting), objective(cfg, objective_setting)
    if fits and isinstance(chosen, Behaviour):
        name, chosen = _FITS, made(cfg.objectives[_FITS])
    optimizer = OmegaConf.select(cfg, optimizer_setting)
    decay = cfg.tuning_decay if tunes else cfg.decay
    settings = {
        "objective": plain(cfg.objectives[name]),
        "optimizer": plain(optimizer),
        "trainer": trainer_spec(cfg),
        **{setting: cfg[setting] for setting in _LEARNING},
        "decay": decay,
    }
    return Learning(
        name=name,
        objective=chosen,
        optimizer=made(optimizer),
        optimizer_setting=optimizer_setting,
        tokens_setting=tokens_setting,
        num_tokens=OmegaConf.select(cfg, tokens_setting),
        batch_tokens=cfg.batch_tokens,
        warmup=cfg.warmup,
        decay=decay,
        settings=settings,
    )


SEQUENTIAL = ("sae", "nfm_linear", "nfm")
"""One part after the other: what parts that are trained together are held against."""


def course(cfg: DictConfig, stages: Sequence[str] | None = None) -> tuple[Step, ...]:
    """The training stages in order: those that the study asks for, or others.

    An objective through the model costs many times more a token than a reconstruction. A stage that is given
    one is trained for its reconstruction as ever, and then tuned for the objective.

    Raises:
        NotAllowed: a stage is unknown, or there is no SAE that it could train or start from.
    """
    steps: list[Step] = []
    for name in cfg.stages if stages is None else stages:
        if name not in (*_STAGES, *cfg.stage):
            raise NotAllowed("stages", name, [*_STAGES, *cfg.stage])
        steps += _STAGES[name](cfg) if name in _STAGES else [_together(cfg, name)]
    if not steps or "sae" not in steps[0].parts:
        raise NotAllowed("stages", list(cfg.stages), "lists whose first stage makes the SAE")
    return tuple(steps)


def _sae_steps(cfg: DictConfig) -> list[Step]:
    how = ("train_tokens", "sae_optimizer")
    parts = frozenset[Part](["sae"])
    making = Step("sae", "make", parts, learning(cfg, "sae_objective", *how, fits=True))
    return [making, *_tuning(cfg, "sae", parts, "sae_objective", "sae_tuning_tokens")]


def _linear_steps(cfg: DictConfig) -> list[Step]:
    return [Step("nfm_linear", "solve", frozenset[Part](["linear"]), None)]


def _nfm_steps(cfg: DictConfig) -> list[Step]:
    how = ("nfm_train_tokens", "nfm_optimizer")
    parts = frozenset[Part](["linear", "interaction"])
    fitting = Step("nfm", "fit", parts, learning(cfg, "nfm_objective", *how, fits=True))
    return [fitting, *_tuning(cfg, "nfm", parts, "nfm_objective", "tuning_tokens")]


def _tuning(cfg: DictConfig, name: str, parts: frozenset[Part], setting: str, tokens: str) -> list[Step]:
    """What follows the fit, where the objective is one through the model."""
    tuned = learning(cfg, setting, tokens, "tuning_optimizer", tunes=True)
    return [Step(f"{name}_for_{tuned.name}", "tune", parts, tuned)] if tuned.through_model else []


def _together(cfg: DictConfig, name: str) -> Step:
    stage, key = cfg.stage[name], f"stage.{name}"
    if not stage.parts:
        raise NotAllowed(f"{key}.parts", [], "lists of sae, linear, interaction")
    settings = (f"{key}.objective", f"{key}.tokens", f"{key}.optimizer")
    how = learning(cfg, *settings, tunes=not stage.from_scratch)
    return Step(name, "begin" if stage.from_scratch else "tune", frozenset[Part](stage.parts), how)


_FITS = "reconstruction"
"""What is fitted before anything is tuned for an objective through the model."""
_STAGES = {"sae": _sae_steps, "nfm_linear": _linear_steps, "nfm": _nfm_steps}


def check_course(cfg: DictConfig) -> None:
    """See whether all stages can be trained.

    Raises:
        NotAllowed: a stage or an objective is unknown, stages lack others before them, there are too few
            tokens for a step, an SAE that was trained elsewhere is to be trained from scratch, or one that
            something is planted on is changed.
    """
    _check_order(cfg, course(cfg))
    for step in course(cfg):
        if step.learning is not None and (cfg.nfm is not None or "sae" in step.parts):
            blocks = step.learning.blocks(cfg.context) if step.learning.through_model else 0
            step.learning.schedule(batch_tokens=blocks * cfg.context or None)
        changes_sae = "sae" in step.parts and step.how in ("tune", "begin")
        if changes_sae and cfg.plant is not None:
            because = f"the stage {step.name} would train the SAE that it is planted on"
            raise NotAllowed("plant", cfg.plant.get("kind"), "null", because)
        if step.how == "begin" and "sae" in step.parts and "d_sae" not in cfg.sae:
            because = f"the stage {step.name} trains an SAE from scratch"
            raise NotAllowed("sae", cfg.sae._target_, "families of SAEs", because)


def _check_order(cfg: DictConfig, steps: Sequence[Step]) -> None:
    """Raise a `NotAllowed` where a stage goes on from what none before it makes, or none makes the NFM."""
    nfm, made = cfg.nfm, set[Part]()
    there = {"sae"} | {part for part in ("linear", "interaction") if nfm is not None and nfm[part]}
    is_solved = nfm is None or nfm.fit == "together" or not (nfm.linear or nfm.bias)

    def refuse(name: str, lacking: str, allowed: str) -> NotAllowed:
        because = f"the stage {name} goes on from {lacking}, which no stage before it makes"
        return NotAllowed("stages", list(cfg.stages), allowed, because)

    for step in steps:
        parts = step.parts & there
        if step.how == "begin" and "sae" not in parts:
            allowed = "lists with sae, as from_scratch=true"
            raise NotAllowed(f"stage.{step.name}.parts", sorted(step.parts), allowed)
        if step.how == "tune" and (lacking := parts - made):
            raise refuse(
                step.name, " and ".join(sorted(lacking)), "lists with sae, nfm_linear, nfm before it"
            )
        if step.how == "fit" and parts and not is_solved:
            raise refuse(step.name, "a linear part", "lists with nfm_linear before it, and nfm.fit=together")
        is_solved |= step.how == "solve"
        makes_nfm = step.how == "fit" or (step.how == "begin" and len(parts) > 1)
        made |= there if makes_nfm else parts & {"sae"}
    if there - made:
        allowed = "lists with nfm, or with a stage that trains SAE and NFM from scratch; and nfm=none"
        raise NotAllowed("stages", list(cfg.stages), allowed, "no stage makes the NFM")


def trained_together(cfg: DictConfig) -> dict[str, bool]:
    """What controls may be needed for.

    Returns:
        `together`: whether interactions are trained with what is linear; `tuned`: whether a stage trains
        parts for which the SAE alone can stand in; `joint`: whether SAE and NFM start from scratch as one.
    """
    if cfg.nfm is None:
        return {"together": False, "tuned": False, "joint": False}
    steps = [step for step in course(cfg) if step.how in ("tune", "begin")]
    of_nfm = [step for step in steps if step.parts & {"linear", "interaction"}]
    mixed = any("interaction" in step.parts and len(step.parts) > 1 for step in of_nfm)
    has_both = cfg.nfm.linear and cfg.nfm.interaction
    return {
        "together": has_both and (mixed or cfg.nfm.fit == "together"),
        "tuned": bool(of_nfm) and cfg.plant is None,
        "joint": any(step.how == "begin" for step in of_nfm),
    }


def trainer_spec(cfg: DictConfig) -> dict[str, Any]:
    """What of the trainer's settings changes weights, as opposed to where they are trained.

    Raises:
        NotAllowed: a setting is the study's own, would train on other steps than are recorded, or keeps
            weights in half precision.
    """
    settings = {name: value for name, value in plain(cfg.trainer).items() if not name.startswith("_")}
    if settings.get("precision") in _HALVES:
        because = "weights, thresholds and running sums of half precision stand still under small steps"
        raise NotAllowed("trainer.precision", settings["precision"], "32-true, bf16-mixed, 64-true", because)
    if refused := sorted(set(settings) - set(_WHERE) - set(HOW)):
        raise NotAllowed(
            f"trainer.{refused[0]}",
            settings[refused[0]],
            ", ".join((*_WHERE, *HOW)),
            "a study's length, its batches and its validations are settings of their own",
        )
    return {name: settings[name] for name in HOW if name in settings}
