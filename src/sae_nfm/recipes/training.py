"""Every way in which a stage takes a dictionary further."""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.residuals.base import ResidualModel
from sae_nfm.models.residuals.linear import DecoderRefit, OutputBias
from sae_nfm.models.saes.base import keep_row_norms_
from sae_nfm.recipes.course import OWN, Candidate, Step
from sae_nfm.recipes.residual import TrainedResidual, determining
from sae_nfm.recipes.tuned import Beginning, TunedParts
from sae_nfm.recipes.workshop import Workshop
from sae_nfm.settings.values import NotAllowed
from sae_nfm.training.parts import Part


def finished(candidate: Candidate, workshop: Workshop, course: tuple[Step, ...] | None = None) -> Candidate:
    """A dictionary after all stages: the study's, or those of another course."""
    for step in workshop.order.course if course is None else course:
        take(step, candidate, workshop)
    return candidate


def retrained(workshop: Workshop, seed: int) -> Autoencoder:
    """The study's SAE with a model of its residual that was trained as the study's, from another seed.

    Raises:
        NotAllowed: a stage trains the SAE together with that model, so that another model is on another SAE.
    """
    course = workshop.order.course
    check_retrainable(course)
    other = workshop.reseeded(seed)
    other.own.foundation = replace(workshop.foundation, activations=other.activations)
    finished(other.own, other, tuple(step for step in course if "sae" not in step.parts))
    for warning in other.warnings:
        workshop.warn(f"seed {seed}: {warning}")
    return other.autoencoder


def check_retrainable(course: tuple[Step, ...]) -> None:
    """Raise a `NotAllowed` where a stage trains the SAE together with the model of its residual."""
    if mixed := [step.name for step in course if "sae" in step.parts and len(step.parts) > 1]:
        because = f"the stage {mixed[0]} trains the SAE with its NFM, so that another NFM is on another SAE"
        raise NotAllowed("attribution.further_seeds", 1, "0", because)


def take(step: Step, candidate: Candidate, workshop: Workshop) -> str | None:
    """Take a dictionary through one stage, as far as it has the parts that are trained there.

    Returns:
        The name under which the workshop has what was made; None where nothing was.
    """
    parts = step.trained(candidate)
    if not parts:
        return None
    return _WAYS[step.how](step, parts, candidate, workshop)


def _make(step: Step, parts: frozenset[Part], candidate: Candidate, workshop: Workshop) -> str:
    if candidate.wider is None:
        name = "sae" if candidate.is_own else f"{candidate.name}_sae"
        candidate.foundation = workshop.sae(name)
        return name
    assert workshop.order.trained is not None
    recipe = workshop.order.trained.wider(candidate.name, candidate.wider)
    candidate.foundation = workshop.founded(candidate.name, workshop.obtain(candidate.name, recipe))
    return candidate.name


def _solve(step: Step, parts: frozenset[Part], candidate: Candidate, workshop: Workshop) -> str | None:
    model = _model(candidate, workshop)
    if model.fit == "together" or (model.W_lin is None and model.b is None):
        return None
    kind = OutputBias if model.W_lin is None else DecoderRefit
    name = f"{candidate.name}_linear"
    control = workshop.solved(name, kind(model.fit_k, bias=model.b is not None), candidate.foundation)
    model.set_linear_(control.weight, control.bias)
    candidate.linear = workshop.metrics[name]
    return name


def _fit(step: Step, parts: frozenset[Part], candidate: Candidate, workshop: Workshop) -> str:
    assert candidate.foundation is not None
    assert candidate.node is not None
    assert step.learning is not None
    model, linear = _model(candidate, workshop), dict(candidate.linear or {})
    learning = (step.learning, candidate.rounds, workshop.order.linear_tokens, workshop.run)
    recipe = TrainedResidual(candidate.foundation, candidate.name, candidate.node, model, linear, *learning)
    candidate.nfm = workshop.obtain(candidate.name, recipe)
    candidate.nfm_fingerprint = workshop.artifacts[candidate.name]["fingerprint"]
    return candidate.name


def _tune(step: Step, parts: frozenset[Part], candidate: Candidate, workshop: Workshop) -> str:
    return _trained_together(step, parts, candidate, workshop, _further(candidate, workshop))


def _begin(step: Step, parts: frozenset[Part], candidate: Candidate, workshop: Workshop) -> str:
    return _trained_together(step, parts, candidate, workshop, _from_scratch(parts, candidate, workshop))


_WAYS = {"make": _make, "solve": _solve, "fit": _fit, "tune": _tune, "begin": _begin}


def _trained_together(
    step: Step, parts: frozenset[Part], candidate: Candidate, workshop: Workshop, beginning: Beginning
) -> str:
    assert step.learning is not None
    name = step.name if candidate.is_own else f"{candidate.name}_{step.name}"
    on = {}
    if candidate.foundation is not None and "sae" not in parts:
        on = {"sae": candidate.foundation.fingerprint, "plant": workshop.order.plant_node}
    recipe = TunedParts(name, beginning, parts, step.learning, workshop.activations, workshop.run, on)
    autoencoder = workshop.obtain(name, recipe)
    made = workshop.artifacts[name]
    if "sae" in parts:
        candidate.foundation = workshop.founded(name, Autoencoder(autoencoder.normalizer, autoencoder.sae))
    if autoencoder.nfm is not None:
        candidate.nfm, candidate.nfm_fingerprint = autoencoder.nfm, made["fingerprint"]
    if candidate.is_own:
        _name_own(parts, autoencoder, made, workshop)
    return name


def _name_own(
    parts: frozenset[Part], autoencoder: Autoencoder, made: dict[str, str], workshop: Workshop
) -> None:
    """The study's SAE and NFM are those of its last stage."""
    if "sae" in parts:
        workshop.artifacts["sae"] = made
    if autoencoder.nfm is not None:
        below = f"{made['path']}/{OWN}" if "sae" in parts else made["path"]
        workshop.artifacts[OWN] = made | {"kind": "nfm", "path": below}


def _further(candidate: Candidate, workshop: Workshop) -> Beginning:
    """The dictionary as it is."""
    assert candidate.foundation is not None
    whole = candidate.autoencoder
    node = workshop.order.sae_node
    if candidate.wider is not None:
        node = {**node, "d_sae": whole.sae.d_sae}
    spec = {"sae": candidate.foundation.fingerprint, "nfm": candidate.nfm_fingerprint}

    def start(autoencoder: Autoencoder, x: Tensor) -> None:
        keep_row_norms_(autoencoder.sae)
        if not hasattr(autoencoder.sae, "k"):  # such families would move L0 to where it once was to be
            codes = autoencoder.explain(x).codes
            autoencoder.sae.l0 = float((codes.values > 0).sum() / len(x))

    return Beginning(lambda: copy.deepcopy(whole.cpu()).train(), start, spec, node, candidate.node)


def _from_scratch(parts: frozenset[Part], candidate: Candidate, workshop: Workshop) -> Beginning:
    """An untrained dictionary of the parts that are trained."""
    trained = workshop.order.trained
    assert trained is not None
    if candidate.wider is not None:
        trained = trained.wider(candidate.name, candidate.wider)
    has_nfm = len(parts) > 1

    def build() -> Autoencoder:
        autoencoder = trained.untrained()
        if has_nfm:
            assert candidate.build is not None
            autoencoder.nfm = candidate.build(autoencoder.sae.d_sae, autoencoder.sae.d_in)
        return autoencoder

    def start(autoencoder: Autoencoder, x: Tensor) -> None:
        autoencoder.initialize_sae_(x)
        if autoencoder.nfm is not None:
            autoencoder.initialize_nfm_(autoencoder.codes(x))

    node = dict(trained.node)
    nfm_node = candidate.node if has_nfm else None
    spec: dict[str, Any] = {"sae": node, "normalizer": trained.normalizer, "nfm": determining(nfm_node)}
    return Beginning(build, start, spec, node, nfm_node)


def _model(candidate: Candidate, workshop: Workshop) -> ResidualModel:
    """The candidate's model of the residual, built when it is first needed."""
    if candidate.nfm is None:
        assert candidate.build is not None
        assert candidate.foundation is not None
        sae = candidate.foundation.autoencoder.sae
        torch.manual_seed(workshop.activations.seed)
        candidate.nfm = candidate.build(sae.d_sae, sae.d_in)
    return candidate.nfm
