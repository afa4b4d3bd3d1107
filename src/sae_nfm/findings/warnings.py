"""What a reader of a result has to be warned of, in short sentences, beside what the recipes warn of."""

from collections.abc import Mapping
from typing import Any

FEW_DOCUMENTS = 200
"""Below, intervals over documents of very unequal lengths are a little too narrow."""
WIDE = 0.1
"""Half an interval as a share of the KL it is of, above which there are few tokens."""
NOISY = 0.01
"""Share of a KL that rounding may make up without a warning."""
RISING = 0.1
"""Share of all that training gained, above which its last quarter gained too much to have been the end."""


def warnings(found: Mapping[str, Any], curves: Mapping[str, Any], asked: int, dtype: str) -> list[str]:
    """Every warning that follows from what was found.

    Args:
        found: conditions and comparisons of the study, and its number of `documents`.
        curves: of what was trained, by name.
        asked: positions that were asked for.
        dtype: of the language model.
    """
    spliced = {
        name: entry["kl"]
        for name, entry in found["conditions"].items()
        if entry["role"] not in ("clean", "identity")
    }
    each = [
        _few_documents(found["documents"], asked),
        _few_tokens(spliced, asked),
        _noise(found["noise_floor"], spliced, dtype),
        _interactions_that_harm(found["marginal_interaction"]),
        *(_still_rising(name, curve) for name, curve in curves.items()),
    ]
    return [warning for warning in each if warning]


def late_gain(curve: Mapping[str, Any]) -> float | None:
    """The share of all that training gained that came in the last quarter of its steps.

    In the figure of the validations, which may be one that falls. None where there are too few of them, or
    no gain.
    """
    points = [(step, value) for step, value in curve["validation"] if value is not None]
    last = points[-1][0] if points else 0
    early = [value for step, value in points if step <= 0.75 * last]
    if len(early) < 2 or points[-1][1] == early[0]:
        return None
    return (points[-1][1] - early[-1]) / (points[-1][1] - early[0])


def _few_documents(documents: int, asked: int) -> str | None:
    if documents >= FEW_DOCUMENTS:
        return None
    return (
        f"eval_tokens={asked}: from {documents} documents; below {FEW_DOCUMENTS}, intervals over documents "
        "may be too narrow"
    )


def _few_tokens(spliced: Mapping[str, Any], asked: int) -> str | None:
    """That the first condition's mean is not known well."""
    name, kl = next(iter(spliced.items()))
    half = (kl["ci95"][1] - kl["ci95"][0]) / 2
    if not half > WIDE * kl["mean"]:
        return None
    return (
        f"eval_tokens={asked}: KL({name}) is known to ±{half / kl['mean']:.0%} only; more tokens narrow that"
    )


def _noise(floor: float | None, spliced: Mapping[str, Any], dtype: str) -> str | None:
    """That rounding alone is a noticeable part of the smallest KL."""
    smallest = min(spliced, key=lambda name: spliced[name]["mean"])
    kl = spliced[smallest]["mean"]
    if floor is None or abs(floor) <= NOISY * kl:
        return None
    return (
        f"lm.dtype={dtype}: where nothing is replaced the KL is {floor:.3g} nats/token by rounding alone, "
        f"{abs(floor) / kl:.1%} of KL({smallest}); a wider lm.dtype lowers it"
    )


def _interactions_that_harm(marginal: Mapping[str, Any] | None) -> str | None:
    """That the KL is surely higher with the interactions than without them."""
    if marginal is None or marginal["absolute"]["ci95"][1] >= 0:
        return None
    worse = -marginal["absolute"]["value"]
    return (
        f"the NFM's KL is above that of {marginal['against']} by {worse:.3g} nats/token: interactions do harm"
    )


def _still_rising(name: str, curve: Mapping[str, Any]) -> str | None:
    gain = late_gain(curve)
    if gain is None or gain <= RISING:
        return None
    tokens = curve["validation"][-1][0] * curve["tokens_per_step"]
    return (
        f"{name}: not trained to the end; the last quarter of its {tokens:,} tokens brought {gain:.0%} of "
        "what training gained"
    )
