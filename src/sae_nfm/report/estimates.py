"""Numbers with their intervals, as `result.json` gives them, and what is read off them."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from sae_nfm.report.conditions import described, matched, of_role


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


def lookup(node: Any, *keys: str | None) -> Any:
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


def condition_kl(result: Mapping[str, Any], name: str | None) -> Estimate | None:
    """Mean KL(clean‖spliced) of a condition, in nats/token."""
    return estimate(lookup(result, "conditions", name, "kl"))


def sae_family(result: Mapping[str, Any]) -> str | None:
    """The SAE's family; those of results before there was more than one are all `topk`."""
    sae = result.get("sae")
    return sae.get("family", "topk") if isinstance(sae, Mapping) else None


def kl_ratio(result: Mapping[str, Any], above: str | None, below: str | None) -> Estimate | None:
    """KL of one condition over that of another; without an interval if the study recorded none.

    None where the study has it as null: what it would be divided by may be 0.
    """
    if above is None or below is None:
        return None
    _, reconstruction, baseline = described(result, below)
    own = lookup(result, "pathology", above) if reconstruction == above else None
    for recorded, key in ((result.get("ratios"), f"{above}/{below}"), (own, baseline)):
        if recorded and key in recorded:
            return estimate(recorded[key])
    top, bottom = condition_kl(result, above), condition_kl(result, below)
    return Estimate(top.value / bottom.value) if top and bottom and bottom.value > 0 else None


def pathology(result: Mapping[str, Any], reconstruction: str | None) -> Estimate | None:
    """KL of a reconstruction over that of random errors as long as its own; None without them."""
    return kl_ratio(result, reconstruction, matched(result, reconstruction, "eps"))


def kl_reduction(result: Mapping[str, Any], name: str | None) -> Estimate | None:
    """1 - KL(name)/KL(SAE): the share of the SAE's KL that a reconstruction removes."""
    if name is None:
        return None
    if name == of_role(result, "nfm") and "reduction" in result:
        return estimate(result["reduction"])
    ratio = kl_ratio(result, name, of_role(result, "sae"))
    return ratio.complement() if ratio else None


def mse_reduction(result: Mapping[str, Any], name: str | None) -> Estimate | None:
    """1 - MSE(name)/MSE(SAE): the share of the SAE's squared error that a reconstruction removes."""
    if name is None:
        return None
    if name == of_role(result, "nfm") and "mse_reduction" in result:
        return estimate(result["mse_reduction"])
    error = number(lookup(result, "conditions", name, "mse"))
    base = number(lookup(result, "conditions", of_role(result, "sae"), "mse"))
    return Estimate(1 - error / base) if error is not None and base else None


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


def in_words(shown: Estimate, minimum: int = 3, unit: str = "") -> str:
    """The value and its interval as part of a sentence."""
    value, interval = format_parts(shown, minimum, unit)
    return f"{value} (95% interval {interval.strip('[]').replace(', ', ' to ')})" if interval else value
