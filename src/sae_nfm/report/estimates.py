"""Numbers with their intervals, and the conditions' names and order, as `result.json` gives them."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

LABELS = {
    "clean": "Clean run",
    "sae": "SAE",
    "sae_linear": "SAE + linear part",
    "sae_interaction": "SAE + interaction part",
    "sae_nfm": "SAE + NFM",
    "bias": "SAE + output bias",
    "refit": "SAE, decoder refitted",
    "affine": "SAE + affine map of x",
    "wide_sae": "Wider SAE",
    "mlp": "SAE + MLP on the codes",
    "codes_bound": "SAE + large MLP on the codes",
    "sae_planted": "SAE + what was planted",
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
COMPONENTS = ("sae", "sae_linear", "sae_interaction", "sae_nfm")


class Estimate(NamedTuple):
    """A value and, where one was computed, the 95% interval around it."""

    value: float
    low: float | None = None
    high: float | None = None

    def complement(self) -> "Estimate":
        """1 minus the estimate: a reduction from a ratio."""
        if self.low is None or self.high is None:
            return Estimate(1 - self.value)
        return Estimate(1 - self.value, 1 - self.high, 1 - self.low)

    def scaled(self, by: float) -> "Estimate":
        """The estimate times a number, which may be negative."""
        if self.low is None or self.high is None:
            return Estimate(self.value * by)
        low, high = sorted((self.low * by, self.high * by))
        return Estimate(self.value * by, low, high)

    def excludes(self, value: float) -> bool:
        """Whether there is an interval and `value` lies outside it."""
        return self.low is not None and self.high is not None and not self.low <= value <= self.high


def lookup(node: Any, *keys: str) -> Any:
    """Walk nested mappings; None as soon as a key is absent."""
    for key in keys:
        if not isinstance(node, Mapping):
            return None
        node = node.get(key)
    return node


def number(node: Any) -> float | None:
    """`node` if it is a finite number, else None."""
    if isinstance(node, bool) or not isinstance(node, int | float) or not math.isfinite(node):
        return None
    return float(node)


def estimate(value: Any, interval: Any = None) -> Estimate | None:
    """Make an estimate of a JSON value, or of a mapping with `value` (or `mean`) and `ci95`."""
    if isinstance(value, Mapping):
        value, interval = value.get("value", value.get("mean")), value.get("ci95")
    value = number(value)
    if value is None:
        return None
    low, high = interval if isinstance(interval, list | tuple) and len(interval) == 2 else (None, None)
    low, high = number(low), number(high)
    return Estimate(value) if low is None or high is None else Estimate(value, low, high)


def split_name(name: str) -> tuple[str | None, str]:
    """`eps(sae)` → (`eps`, `sae`); the name of a reconstruction → (None, name)."""
    baseline, bracket, rest = name.partition("(")
    return (baseline, rest.removesuffix(")")) if bracket else (None, name)


def grouped_conditions(result: Mapping[str, Any]) -> dict[str, list[str]]:
    """Each reconstruction's conditions: itself first, then its matched baselines, in reading order.

    `identity` is none: it is the noise floor of the others.
    """

    def rank(name: str, order: list[str]) -> int:
        return order.index(name) if name in order else len(order)

    names = [name for name in result.get("conditions") or {} if name != "identity"]
    names.sort(key=lambda name: rank(split_name(name)[0] or "", ["", *BASELINES]))
    reconstructions = dict.fromkeys(split_name(name)[1] for name in names)
    ordered = sorted(reconstructions, key=lambda name: rank(name, list(LABELS)))
    return {group: [name for name in names if split_name(name)[1] == group] for group in ordered}


def label(name: str) -> str:
    """A condition in words: `eps(sae)` → `SAE: ε-random`. Unknown names stay as they are."""
    baseline, reconstruction = split_name(name)
    words = LABELS.get(reconstruction, reconstruction)
    return f"{words}: {BASELINES.get(baseline, baseline)}" if baseline else words


def condition_kl(result: Mapping[str, Any], name: str) -> Estimate | None:
    """Mean KL(clean‖spliced) of a condition, in nats/token."""
    return estimate(lookup(result, "conditions", name, "kl"))


def kl_ratio(result: Mapping[str, Any], above: str, below: str) -> Estimate | None:
    """KL of one condition over that of another; without an interval if the study recorded none."""
    recorded = estimate(lookup(result, "ratios", f"{above}/{below}"))
    baseline, reconstruction = split_name(below)
    if recorded is None and baseline and reconstruction == above:
        recorded = estimate(lookup(result, "pathology", above, baseline))
    if recorded is not None:
        return recorded
    top, bottom = condition_kl(result, above), condition_kl(result, below)
    return Estimate(top.value / bottom.value) if top and bottom and bottom.value > 0 else None


def kl_reduction(result: Mapping[str, Any], name: str) -> Estimate | None:
    """1 - KL(name)/KL(sae): the share of the SAE's KL that a reconstruction removes."""
    recorded = estimate(result.get("reduction")) if name == "sae_nfm" else None
    ratio = kl_ratio(result, name, "sae")
    return recorded or (ratio.complement() if ratio else None)


def mse_reduction(result: Mapping[str, Any], name: str) -> Estimate | None:
    """1 - MSE(name)/MSE(sae): the share of the SAE's squared error that a reconstruction removes."""
    recorded = estimate(result.get("mse_reduction")) if name == "sae_nfm" else None
    error = number(lookup(result, "conditions", name, "mse"))
    base = number(lookup(result, "conditions", "sae", "mse"))
    return recorded or (Estimate(1 - error / base) if error is not None and base else None)


def _decimals(shown: Estimate, minimum: int) -> int:
    """Enough decimals for two digits of the value and for the interval's ends to differ."""
    wanted = [minimum]
    if shown.value:
        wanted.append(1 - math.floor(math.log10(abs(shown.value))))
    if shown.low is not None and shown.high is not None and shown.high > shown.low:
        wanted.append(-math.floor(math.log10((shown.high - shown.low) / 2)))
    return min(max(wanted), 8)


def format_value(shown: Estimate | None, minimum: int = 3, unit: str = "") -> str:
    """The value alone, with as many decimals as its interval deserves; `%` as unit multiplies by 100."""
    return format_parts(shown, minimum, unit)[0]


def format_estimate(shown: Estimate | None, minimum: int = 3, unit: str = "") -> str:
    """The value followed by its interval, as in `2.211 [2.205, 2.218]`."""
    return " ".join(part for part in format_parts(shown, minimum, unit) if part)


def format_parts(shown: Estimate | None, minimum: int = 3, unit: str = "") -> tuple[str, str]:
    """The value and the bracketed interval (empty if there is none), apart."""
    if shown is None:
        return "–", ""
    if unit == "%":
        shown = shown.scaled(100)
    decimals = _decimals(shown, minimum)
    value = f"{shown.value:.{decimals}f}{unit}"
    if shown.low is None or shown.low == shown.high:
        return value, ""
    return value, f"[{shown.low:.{decimals}f}, {shown.high:.{decimals}f}]"
