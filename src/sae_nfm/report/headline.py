"""What a study found, in sentences that carry their intervals."""

from collections.abc import Mapping
from typing import Any

from sae_nfm.report.conditions import label, of_role
from sae_nfm.report.estimates import (
    condition_kl,
    estimate,
    format_value,
    in_words,
    kl_reduction,
    lookup,
    number,
    pathology,
    sae_family,
)


def headline(result: Mapping[str, Any]) -> list[str]:
    """The findings, the most important one first; at least one sentence."""
    sentences = [
        _planted(result),
        gain(result),
        marginal_gain(result),
        bound(result),
        against_random(result),
    ]
    found = [sentence for sentence in sentences if sentence]
    return found or ["This study measured no condition."]


def facts(result: Mapping[str, Any]) -> list[str]:
    """What was measured and on how much, in a few words each."""
    site, sae, lm = result.get("site") or {}, result.get("sae") or {}, result.get("lm") or {}
    floor, k = number(result.get("noise_floor")), number(sae.get("k"))
    model = str(lm.get("path") or "").rstrip("/").rpartition("/")[2]
    found = (
        (model, f"{model}, layer {site.get('layer')} {site.get('hook')}"),
        (sae.get("d_sae"), f"{sae_family(result)} SAE of {_count(sae.get('d_sae'))} latents"),
        (k is not None, f"k {_count(k)}"),
        (result.get("context"), f"context {result.get('context')}"),
        (result.get("measurements"), f"{_count(result.get('measurements'))} KL measurements"),
        (floor is not None, f"noise floor {floor:.1g} nats/token" if floor is not None else ""),
        (result.get("seed") is not None, f"seed {result.get('seed')}"),
    )
    return [words for present, words in found if present]


def _count(value: Any) -> str:
    read = number(value)
    return "?" if read is None else f"{read:,.0f}" if read == int(read) else f"{read:,.1f}"


def _planted(result: Mapping[str, Any]) -> str | None:
    """Whether the instrument finds the interactions that were put there, and none where none were."""
    truth = estimate(lookup(result, "planted", "share"))
    share = estimate(lookup(result, "marginal_interaction", "share"))
    if truth is None or share is None:
        return None
    said = f"interactions take {in_words(share, 1, '%')} off the KL that the linear part leaves"
    if truth.value == 0:
        return f"Control: no interactions were planted; {said}."
    kind, worth = lookup(result, "planted", "kind"), in_words(truth, 1, "%")
    return f"Control: {kind} worth {worth} were planted; {said}."


def gain(result: Mapping[str, Any]) -> str | None:
    """How far the NFM lowers the KL, from what to what."""
    reduction = kl_reduction(result, of_role(result, "nfm"))
    sae, both = (condition_kl(result, of_role(result, role)) for role in ("sae", "nfm"))
    if not (reduction and sae and both):
        return None
    values = f"from {format_value(sae)} to {format_value(both)} nats/token"
    if reduction.low is not None and not reduction.excludes(0):
        return (
            "Adding the NFM does not change the SAE's next-token KL beyond chance: a reduction of "
            f"{in_words(reduction, 1, '%')}, {values}."
        )
    verb = "cuts" if reduction.value >= 0 else "raises"
    size = reduction if reduction.value >= 0 else reduction.scaled(-1)
    return f"Adding the NFM {verb} the SAE's next-token KL by {in_words(size, 1, '%')}, {values}."


def marginal_gain(result: Mapping[str, Any]) -> str | None:
    """What the interactions bring that the linear part does not; None if that was not measured."""
    absolute = estimate(lookup(result, "marginal_interaction", "absolute"))
    share = estimate(lookup(result, "marginal_interaction", "share"))
    if absolute is None:
        return None
    alone = of_role(result, "linear_alone") is not None
    linear = "a linear part that was trained alone, by the same stages," if alone else "the linear part"
    of_linear = f", {format_value(share, 1, '%')} of what {linear} leaves" if share else ""
    size = f"{in_words(absolute, 3)} nats/token{of_linear}"
    nfm = result.get("nfm") or {}
    together = nfm.get("linear") and nfm.get("fit") == "together" and not alone
    caveat = (
        " Both parts were trained together, so that the linear part alone is not the best linear one."
        if together
        else ""
    )
    if absolute.low is not None and not absolute.excludes(0):
        return f"Feature interactions bring nothing measurable beyond the linear part: {size}.{caveat}"
    if absolute.value < 0:
        loss = in_words(absolute.scaled(-1), 3)
        return (
            f"Feature interactions bring nothing beyond the linear part: they add {loss} nats/token.{caveat}"
        )
    return f"Feature interactions take off a further {size}.{caveat}"


def bound(result: Mapping[str, Any]) -> str | None:
    """How much of what the codes tell of the residual the NFM has found."""
    share = estimate(lookup(result, "share_of_codes_bound", "kl"))
    if share is None:
        return None
    best = "" if share.value > 1 else ", the best predictor of the residual that was tried"
    return (
        f"The NFM takes off {in_words(share, 0, '%')} of what a large MLP on the same codes takes off{best}."
    )


def against_random(result: Mapping[str, Any]) -> str | None:
    """How the errors compare with random ones of the same length; the KL alone if there is no ε baseline."""
    names = [name for role in ("sae", "nfm") if (name := of_role(result, role))]
    ratios = {name: ratio for name in names if (ratio := pathology(result, name))}
    sae = condition_kl(result, of_role(result, "sae"))
    if not ratios and sae:
        return f"Splicing in the SAE's reconstruction costs a KL of {in_words(sae, 3)} nats/token."
    if not ratios:
        return None
    said = [f"{in_words(ratio, 2)} times as far for {label(result, name)}" for name, ratio in ratios.items()]
    return (
        "Against random errors of the same length at the same tokens, the reconstruction's error moves the "
        f"next-token distribution {' and '.join(said)}.{_pathology_change(result)}"
    )


def _pathology_change(result: Mapping[str, Any]) -> str:
    """What the NFM makes of the ratio to random errors, itself included in what they are matched to."""
    change = estimate(lookup(result, "pathology_change", "eps"))
    if change is None:
        return ""
    if change.low is not None and not change.excludes(0):
        return " The NFM does not change that multiple beyond chance."
    higher = change.value > 0
    size = in_words(change if higher else change.scaled(-1), 2)
    return f" With the NFM that multiple is {'higher' if higher else 'lower'} by {size}."
