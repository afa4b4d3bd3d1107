"""What a reader asks of a study, each answered in a sentence; None where the result does not say."""

from collections.abc import Mapping
from typing import Any

from sae_nfm.report.conditions import BASELINES, described, label, of_role
from sae_nfm.report.estimates import (
    Estimate,
    condition_kl,
    estimate,
    format_value,
    in_words,
    kl_reduction,
    lookup,
    number,
    sae_family,
)

_REFERENCES = ("clean", "identity", "zero", "mean")
_LEVEL = 0.05


def worst(result: Mapping[str, Any]) -> str | None:
    """Which condition moves the model furthest, and which reconstruction; ablations apart."""
    kls = {
        name: kl
        for name in result.get("conditions") or {}
        if described(result, name).role not in _REFERENCES and (kl := condition_kl(result, name))
    }
    own = {name: kl for name, kl in kls.items() if described(result, name).role != "baseline"}
    if len(kls) < 2 or not own:
        return None
    ordered = sorted(own, key=lambda name: own[name].value)
    first = max(kls, key=lambda name: kls[name].value)
    said = f"The worst of the {len(kls)} conditions is {_named(result, first, kls)}"
    if first not in own:
        said += f"; the worst reconstruction is {_named(result, ordered[-1], own)}"
    return said + (f", the best {_named(result, ordered[0], own)}." if len(own) > 1 else ".")


def _named(result: Mapping[str, Any], name: str, kls: Mapping[str, Estimate]) -> str:
    return f"{label(result, name)}, at {format_value(kls[name])} nats/token"


def precision(result: Mapping[str, Any]) -> str | None:
    """Whether n is enough: how well the main figures are known, from how much."""
    kl, reduction = condition_kl(result, of_role(result, "sae")), kl_reduction(result, of_role(result, "nfm"))
    positions, documents = number(result.get("positions")), number(result.get("documents"))
    if kl is None or kl.low is None or kl.high is None or not kl.value or positions is None:
        return None
    of = "" if documents is None else f" of {documents:,.0f} documents"
    half = 100 * (kl.high - kl.low) / 2 / kl.value
    said = f"From {positions:,.0f} positions{of}, the SAE's KL is known to ±{half:.2g}%"
    if reduction is None or reduction.low is None or reduction.high is None:
        return f"{said}."
    points = 100 * (reduction.high - reduction.low) / 2
    return (
        f"{said}, and what the NFM takes off it to ±{points:.2g} percentage points: less than that could not "
        "be told from nothing."
    )


def by_position(result: Mapping[str, Any]) -> str | None:
    """Whether the share that the NFM takes off depends on the position."""
    gain = lookup(result, "along_context", "reduction")
    if not gain:
        return None
    change, early, late = (estimate(gain[key]) for key in ("change", "early", "late"))
    if change is None or early is None or late is None:
        return None
    shares = (
        f"The NFM takes off {in_words(early, 1, '%')} of the SAE's KL at {_span(gain['early'])} and "
        f"{in_words(late, 1, '%')} at {_span(gain['late'])}"
    )
    if not change.excludes(0):
        return f"{shares}: no change along the block beyond chance, {_points(change)}."
    if change.value > 0:
        return f"{shares}: the share grows along the block, by {_points(change)}."
    return f"{shares}: the share falls along the block, by {_points(change.scaled(-1))}."


def _points(share: Estimate) -> str:
    return f"{in_words(share.scaled(100), 1)} percentage points"


def _span(half: Mapping[str, Any]) -> str:
    first, last = half["positions"]
    return f"positions {first} to {last}" if first < last else f"position {first}"


def by_document(result: Mapping[str, Any]) -> list[str]:
    """Whether the gain is in few documents or in all, and at how many tokens."""
    return [_across(result, each) for each in result.get("across_documents") or []]


def _across(result: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    a, b, top = label(result, found["a"]), label(result, found["b"]), found["top_tenth"]
    tokens = number(lookup(result, "made_worse", f"{found['a']} vs {found['b']}", "fraction"))
    at_tokens = "" if tokens is None else f" (and above it at {tokens:.0%} of the tokens)"
    said = f"The KL of {a} is below that of {b} in {found['lower']:.0%} of the documents{at_tokens}"
    fall = number(top["fall"])
    if fall is None:
        return f"{said}, but in all it does not fall."
    return (
        f"{said}; the tenth of the documents where it falls most, {top['tokens']:.0%} of the tokens, has "
        f"{fall:.0%} of the whole fall."
    )


def dictionary(result: Mapping[str, Any]) -> str | None:
    """How good the SAE is."""
    sae = result.get("sae") or {}
    latents, l0 = number(sae.get("d_sae")), number(sae.get("l0"))
    explained, dead = estimate(sae.get("explained_variance")), number(sae.get("dead_fraction"))
    if latents is None or l0 is None:
        return None
    said = [f"{l0:,.4g} of its {latents:,.0f} latents are active per token (L0)"]
    if explained is not None:
        said.insert(0, f"explains {format_value(explained, 1, '%')} of the variance of the activations")
    if dead is not None:
        said.append(f"{dead:.1%} are dead, active at none of the scored tokens")
    return f"On the test documents the {sae_family(result)} SAE {'; '.join(said)}."


def training(result: Mapping[str, Any]) -> list[str]:
    """Whether each part was trained to the end."""
    return [_stage(result, name, curve) for name, curve in (result.get("curves") or {}).items()]


def _stage(result: Mapping[str, Any], name: str, curve: Mapping[str, Any]) -> str:
    points = [(step, value) for step, value in curve["validation"] if number(value) is not None]
    what = curve["watched"].replace("_", " ")
    if not points:
        return f"{name}: no validation gave a number."
    (_, first), (last, value) = points[0], points[-1]
    tokens, change = last * curve["tokens_per_step"], number(curve.get("late_change"))
    said = (
        f"{name}: its {what} on validation documents went from {first:.4g} to {value:.4g} in "
        f"{tokens:,} tokens"
    )
    if change is not None:
        judgement = "flat" if curve.get("flat") else "not flat"
        said += f"; it was {judgement} by then, its {_end(curve, last)} moved it by {change:.0%} of its range"
    best = number(lookup(result, "validation", name, "best_step"))
    kept = (
        f"; the weights kept are those of step {best:,.0f} of {last:,}, the best"
        if best not in (None, last)
        else ""
    )
    return f"{said}{kept}."


def _end(curve: Mapping[str, Any], last: int) -> str:
    """What `late_change` is of."""
    start = number(curve.get("late_from"))
    if start is None:
        return "end"
    late = f"{1 - start / last:.0%}"
    return f"last {'quarter' if late == '25%' else late}"


def compared(result: Mapping[str, Any], test: Mapping[str, Any]) -> str | None:
    """A paired test in words."""
    a, b = str(test.get("a")), str(test.get("b"))
    difference, p = estimate(test.get("difference")), number(test.get("p_holm"))
    if difference is None:
        return None
    against = described(result, b)
    is_own = against.baseline and against.reconstruction == a
    other = (
        f"its own {BASELINES.get(against.baseline or '', against.baseline)} baseline"
        if is_own
        else label(result, b)
    )
    if p is not None and p >= _LEVEL:
        apart = f"does not differ from that of {other} beyond chance: {in_words(difference)} nats/token"
        return f"The KL of {label(result, a)} {apart}."
    higher = difference.value >= 0
    size = in_words(difference if higher else difference.scaled(-1))
    side = "above" if higher else "below"
    return f"The KL of {label(result, a)} is {side} that of {other} by {size} nats/token."
