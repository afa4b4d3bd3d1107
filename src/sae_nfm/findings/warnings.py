"""What a reader of a result has to be warned of, in short sentences, beside what the recipes warn of."""

from collections.abc import Mapping
from typing import Any

FEW_DOCUMENTS = 200
"""Below, intervals over documents of very unequal lengths are a little too narrow."""
WIDE = 0.1
"""Half an interval as a share of the KL it is of, above which there are few tokens."""
NOISY = 0.01
"""Share of a KL that rounding may make up without a warning."""
MOVING = 0.1
"""Share of a curve's range, above which its last quarter moved too far to have been its end."""
_EARLY = 0.75
"""Of the steps: what follows the last validation in them is a curve's end, a quarter if one falls there."""


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
        _few_tokens(spliced, asked) if spliced else None,
        _noise(found["noise_floor"], spliced, dtype) if spliced else None,
        _interactions_that_harm(found["marginal_interaction"]),
        *(_not_flat(name, curve) for name, curve in curves.items()),
    ]
    return [warning for warning in each if warning]


def late_change(curve: Mapping[str, Any]) -> float | None:
    """How far the end of a stage's steps moved its validation figure, as a share of its whole range.

    None where there are too few validations to tell, or the figure never moved.
    """
    points = _points(curve)
    values, early = [value for _, value in points], _early(points)
    if len(early) < 2 or max(values) == min(values):
        return None
    return abs(values[-1] - early[-1][1]) / (max(values) - min(values))


def late_from(curve: Mapping[str, Any]) -> int | None:
    """The step that `late_change` counts from; None where there is none."""
    return None if late_change(curve) is None else _early(_points(curve))[-1][0]


def _points(curve: Mapping[str, Any]) -> list[tuple[int, float]]:
    return [(step, value) for step, value in curve["validation"] if value is not None]


def _early(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """The validations before a curve's end."""
    return [(step, value) for step, value in points if step <= _EARLY * points[-1][0]]


def judged(curves: Mapping[str, Any]) -> dict[str, Any]:
    """The curves, with their `late_change`, and whether they were `flat` at their end (null: unknown)."""
    changes = {name: late_change(curve) for name, curve in curves.items()}
    flat = {name: None if change is None else change <= MOVING for name, change in changes.items()}
    return {
        name: {**curve, "late_from": late_from(curve), "late_change": changes[name], "flat": flat[name]}
        for name, curve in curves.items()
    }


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
    worse, linear = -marginal["absolute"]["value"], marginal["against"]
    return f"the KL of the NFM is above that of {linear} by {worse:.3g} nats/token: interactions do harm"


def _not_flat(name: str, curve: Mapping[str, Any]) -> str | None:
    change, start = late_change(curve), late_from(curve)
    if change is None or start is None or change <= MOVING:
        return None
    last, figure = curve["validation"][-1][0], curve["watched"].replace("_", " ")
    tokens, late = last * curve["tokens_per_step"], f"{1 - start / _points(curve)[-1][0]:.0%}"
    return (
        f"{name}: not trained to its end; the last {'quarter' if late == '25%' else late} of its {tokens:,} "
        f"tokens moved its {figure} by {change:.0%} of all that it moved"
    )
