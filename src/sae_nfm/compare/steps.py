"""The way from the SAE to the NFM in steps, and what a comparison keeps of each."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sae_nfm.report.conditions import of_role
from sae_nfm.report.estimates import Estimate, condition_kl, estimate, lookup, pathology

SAE, LINEAR, NFM, MLP = "SAE", "+ linear part", "+ NFM", "+ MLP"
STEPS = (SAE, LINEAR, NFM, MLP)
_ROLES = {  # what was trained alone for the same objective stands before what grew up beside the rest
    SAE: ("sae_alone", "sae"),
    LINEAR: ("linear_alone", "linear"),
    NFM: ("nfm",),
}
_MLP = "mlp"  # the name of the control that takes the NFM's place

Steps = dict[str, dict[str, Estimate]]
"""By step, then by the name of the measure; without what was not measured."""


class StepMeasure(NamedTuple):
    """One number of a condition, with how it is named and written."""

    name: str  # in compare_objectives.csv
    heading: str
    read: Callable[[Mapping[str, Any], str], Estimate | None]
    unit: str = ""
    decimals: int = 3  # at least


def _at(*keys: str) -> Callable[[Mapping[str, Any], str], Estimate | None]:
    return lambda result, name: estimate(lookup(result, "conditions", name, *keys))


def _ce_increase(result: Mapping[str, Any], name: str) -> Estimate | None:
    entry = result["conditions"][name]
    return estimate(entry.get("ce_increase"), entry.get("ce_increase_ci95"))


KL = StepMeasure("kl", "KL, nats/token", condition_kl)
MSE = StepMeasure("mse", "MSE", _at("mse"), decimals=4)
STEP_MEASURES = (
    KL,
    StepMeasure("ce_increase", "CE increase, nats/token", _ce_increase),
    MSE,
    StepMeasure("top1_agreement", "top-1 agreement", _at("top1_agreement"), "%", 1),
    StepMeasure("top_n_kl", "top-N KL, nats/token", _at("top_n", "kl")),
    StepMeasure("kendall_tau", "Kendall's τ of the top N", _at("top_n", "kendall_tau")),
    StepMeasure("pathology", "KL ÷ ε", pathology, "×", 2),
)


def read_steps(result: Mapping[str, Any]) -> Steps:
    """What a result says of every step that it measured."""
    return {
        step: {m.name: read for m in STEP_MEASURES if (read := m.read(result, name)) is not None}
        for step, name in _names(result).items()
    }


def _names(result: Mapping[str, Any]) -> dict[str, str]:
    """The condition that a step is."""
    found = {
        step: next((name for role in roles if (name := of_role(result, role))), None)
        for step, roles in _ROLES.items()
    }
    found[MLP] = _MLP if _MLP in result["conditions"] else None
    return {step: name for step, name in found.items() if name is not None}
