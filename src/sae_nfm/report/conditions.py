"""The conditions of a result: what each stands for, by its role, and their words and order."""

from collections.abc import Mapping
from typing import Any, NamedTuple

LABELS = {  # by role, of controls by name as well; in reading order
    "clean": "Clean run",
    "sae": "SAE",
    "linear": "SAE + linear part",
    "linear_alone": "SAE + linear part, trained alone",
    "sae_alone": "SAE, trained alone",
    "sequential": "SAE + NFM, one after the other",
    "interaction": "SAE + interaction part",
    "nfm": "SAE + NFM",
    "control bias": "SAE + output bias",
    "refit": "SAE, decoder refitted",
    "control affine": "SAE + affine map of x",
    "control wide_sae": "Wider SAE",
    "control mlp": "SAE + MLP on the codes",
    "codes_bound": "SAE + large MLP on the codes",
    "planted": "SAE + what was planted",
    "zero": "Zero ablation",
    "mean": "Mean ablation",
}
BASELINES = {
    "eps": "ε-random",
    "cov": "covariance-matched",
    "theta": "θ-random",
    "theta_shrunk": "θ-random at its norm",
    "real": "real-activation",
    "permuted": "permuted error",
    "norm_only": "norm only",
    "norm_corrected": "norm-corrected",
}
_MOST_MAIN = 6
COMPONENTS = ("sae", "linear", "interaction", "nfm")
_USUAL_ROLES = {
    "clean": "clean",
    "identity": "identity",
    "sae": "sae",
    "sae_linear": "linear",
    "sae_interaction": "interaction",
    "sae_nfm": "nfm",
    "linear_alone": "linear_alone",
    "sae_alone": "sae_alone",
    "sequential": "sequential",
    "refit": "refit",
    "codes_bound": "codes_bound",
    "sae_planted": "planted",
    "zero": "zero",
    "mean": "mean",
}


class Described(NamedTuple):
    """What a condition is."""

    role: str
    reconstruction: str  # what is spliced in, or a baseline's target; of `clean` its own name
    baseline: str | None


def described(result: Mapping[str, Any], name: str) -> Described:
    """What the result says that a condition is; of results before there were roles, what its name says."""
    entry = (result.get("conditions") or {}).get(name)
    if isinstance(entry, Mapping) and "role" in entry:
        return Described(entry["role"], entry.get("reconstruction") or name, entry.get("baseline"))
    baseline, bracket, rest = name.partition("(")
    if bracket:
        return Described("baseline", rest.removesuffix(")"), baseline)
    return Described(_USUAL_ROLES.get(name, "control"), name, None)


def of_role(result: Mapping[str, Any], role: str) -> str | None:
    """Name of the first condition that has a role: the one that headlines are of."""
    names = result.get("conditions") or {}
    return next((name for name in names if described(result, name).role == role), None)


def role_in_headlines(result: Mapping[str, Any], name: str) -> str:
    """The role of a condition where it is the first that has it; `control` where another stands for it."""
    role = described(result, name).role
    return role if name == of_role(result, role) else "control"


def matched(result: Mapping[str, Any], reconstruction: str | None, baseline: str) -> str | None:
    """Name of the condition that is a reconstruction's own baseline."""
    sought = Described("baseline", reconstruction or "", baseline)
    return next((name for name in result.get("conditions") or {} if described(result, name) == sought), None)


def grouped_conditions(result: Mapping[str, Any]) -> dict[str, list[str]]:
    """Each reconstruction's conditions: itself first, then its matched baselines, in reading order.

    `identity` is none: it is the noise floor of the others.
    """

    def rank(key: str, order: list[str]) -> int:
        return order.index(key) if key in order else len(order)

    is_of = {name: described(result, name) for name in result.get("conditions") or {}}
    names = [name for name, what in is_of.items() if what.role != "identity"]
    names.sort(key=lambda name: rank(is_of[name].baseline or "", ["", *BASELINES]))
    reconstructions = dict.fromkeys(is_of[name].reconstruction for name in names)
    ordered = sorted(reconstructions, key=lambda name: rank(_key(result, name), list(LABELS)))
    return {group: [name for name in names if is_of[name].reconstruction == group] for group in ordered}


def main_conditions(result: Mapping[str, Any]) -> list[str]:
    """The SAE, the parts of the NFM and their ε baselines; of a study without them, its first conditions."""
    sae, linear, interaction, nfm = (of_role(result, role) for role in COMPONENTS)
    main = (sae, matched(result, sae, "eps"), linear, interaction, nfm, matched(result, nfm, "eps"))
    names = result.get("conditions") or {}
    others = [name for name in names if described(result, name).role not in ("clean", "identity")]
    return [name for name in main if name is not None] or others[:_MOST_MAIN]


def label(result: Mapping[str, Any], name: str) -> str:
    """A condition in words: `eps(sae)` → `SAE: ε-random`; its name where there are none."""
    _, reconstruction, baseline = described(result, name)
    words = LABELS.get(_key(result, reconstruction), reconstruction)
    return f"{words}: {BASELINES.get(baseline, baseline)}" if baseline else words


def _key(result: Mapping[str, Any], reconstruction: str) -> str:
    role = role_in_headlines(result, reconstruction)
    return f"control {reconstruction}" if role == "control" else role
