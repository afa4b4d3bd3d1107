"""What `result.json` says of each condition."""

from typing import Any

import numpy as np
from jaxtyping import Int

from sae_nfm.evaluation.condition import Condition
from sae_nfm.findings.statistics import clustered_mean
from sae_nfm.findings.summary import Summary
from sae_nfm.measures.divergence import TOP_N
from sae_nfm.measures.sums import histogram_edges

_COARSE = 29  # fine histogram bins per bin of the result: an eighth of a decade


def entries(summary: Summary) -> dict[str, dict[str, Any]]:
    """The entry of every condition, by name."""
    return {condition.name: entry(summary, condition) for condition in summary.conditions}


def entry(summary: Summary, condition: Condition) -> dict[str, Any]:
    """What a condition is, how far it moves the next-token distribution, and how far the activation."""
    name = condition.name
    plain = {
        measure: float(summary.documents(measure, name).sum() / summary.tokens.sum())
        for measure in summary.measures
    }
    clean = summary.of_role("clean")
    assert clean is not None
    increase = summary.difference("ce", name, clean)
    return {
        "role": condition.role,
        "reconstruction": condition.reconstruction,
        "baseline": condition.baseline_name,
        "n": summary.moments(name)[2],
        "draws": condition.draws,
        "kl": _kl(summary, name),
        "ce": summary.mean("ce", name)[0],
        "ce_increase": increase.value,
        "ce_increase_ci95": list(increase.ci95),
        "top1_agreement": plain["agreement"],
        "l2": plain["l2"],
        "mse": plain["mse"],
        "cosine": plain["cosine"],
        "loss_recovered": _loss_recovered(summary, name, clean),
        **_top_n(summary.top_n, plain),
        "by_position": _by_position(summary, name),
    }


def _kl(summary: Summary, name: str) -> dict[str, Any]:
    number, level = summary.names.index(name), summary.level("kl", name)
    low, high = float(summary.sums["kl_min"][number]), float(summary.sums["kl_max"][number])
    counts = summary.sums["histogram"][number]
    return {
        "mean": level.value,
        "ci95": list(level.ci95),
        "std": summary.moments(name)[1],
        "median": _median(counts, low, high),
        "min": low,
        "max": high,
        "histogram": _coarse(counts),
    }


def _loss_recovered(summary: Summary, name: str, clean: str) -> float | None:
    """1 − (CE − CE(clean)) / (CE(zero) − CE(clean)).

    None where the zero vector was not spliced in, or may cost nothing.
    """
    zero = summary.of_role("zero")
    share = None if zero is None else summary.share("ce", name, clean, start=zero)
    return None if share is None else share.value


def _top_n(top_n: int, plain: dict[str, float]) -> dict[str, Any]:
    if not top_n:
        return {}
    top = {name.removeprefix("top_n_"): plain[name] for name in TOP_N if name.startswith("top_n_")}
    others = {name: plain[name] for name in TOP_N if not name.startswith("top_n_")}
    return {"top_n": {"n": top_n, **top}, **others}


def _by_position(summary: Summary, name: str) -> dict[str, list[Any]]:
    """Mean KL at each position, with a t-interval clustered by groups of documents."""
    sums = summary.sums["by_position"][summary.names.index(name)]
    mean, margin = clustered_mean(sums, summary.sums["tokens_by_position"])
    return {
        "kl": [float(m) if np.isfinite(m) else None for m in mean],
        "ci95": [
            [float(m - e), float(m + e)] if np.isfinite(e) else None
            for m, e in zip(mean, margin, strict=True)
        ],
    }


def _median(counts: Int[np.ndarray, " bin"], low: float, high: float) -> float:
    """Middle of the bin that holds the median, good to half the bins' 1%."""
    edges = histogram_edges().numpy()
    middle = int(np.searchsorted(np.cumsum(counts), (counts.sum() + 1) / 2))
    return float(np.clip(np.sqrt(edges[middle] * edges[middle + 1]), low, high))


def _coarse(counts: Int[np.ndarray, " bin"]) -> dict[str, list[Any]]:
    """A histogram coarse enough to draw, without its empty ends."""
    grouped = counts.reshape(-1, _COARSE).sum(1)
    edges = histogram_edges().numpy()[::_COARSE]
    filled = np.flatnonzero(grouped)
    first, last = int(filled[0]), int(filled[-1]) + 1
    return {"edges": edges[first : last + 1].tolist(), "counts": grouped[first:last].tolist()}
