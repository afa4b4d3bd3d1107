"""How evenly a difference is spread: over the positions of a block, and over the documents."""

from typing import Any

import numpy as np
from jaxtyping import Float

from sae_nfm.findings.comparisons import as_json, best_linear, pairs
from sae_nfm.findings.statistics import Jackknife, clustered_mean
from sae_nfm.findings.summary import Summary

_BARS = 40
_TAIL = 0.01  # of the documents, at either end: they are counted in the outermost bars
_FRACTION = 0.1  # of the documents: those with the most gain

PerGroup = Float[np.ndarray, "group bin"]


def spread(summary: Summary) -> dict[str, Any]:
    """Both, as `result.json` has them."""
    return {"along_context": along_context(summary), "across_documents": across_documents(summary)}


def along_context(summary: Summary) -> dict[str, Any] | None:
    """KL by position: levels, paired differences of all that is compared, and what the NFM takes off.

    Positions are in bins that double in width. The last one of a block is left out: no token follows it, and
    a model that was trained on such blocks never learnt to predict there. Intervals are over groups of
    documents. None where fewer than two bins have a scored token.
    """
    tokens = summary.sums["tokens_by_position"][:, :-1]
    bins, groups = _bins(tokens), tokens.sum(1) > 0
    if len(bins) < 2:
        return None
    by_position = summary.sums["by_position"][:, groups, :-1]
    sizes = _binned(tokens[groups], bins)
    sums = {name: _binned(by_position[i], bins) for i, name in enumerate(summary.names)}
    nfm, sae = summary.of_role("nfm"), summary.of_role("sae")
    gain = None if nfm is None or sae is None else _gain(sums[nfm], sums[sae], sizes, bins)
    return {
        "bins": [[first, last] for first, last in bins],
        "tokens": sizes.sum(0).tolist(),
        "kl": {name: (of.sum(0) / sizes.sum(0)).tolist() for name, of in sums.items()},
        "differences": [{"a": a, "b": b, **_difference(sums[a] - sums[b], sizes)} for a, b in pairs(summary)],
        "reduction": gain,
    }


def across_documents(summary: Summary) -> list[dict[str, Any]]:
    """KL(a)/KL(b) of each document, for the NFM over the SAE and over the best linear reconstruction."""
    nfm = summary.of_role("nfm")
    others = [summary.of_role(role) for role in ("sae", best_linear(summary))]
    return [_across(summary, nfm, other) for other in others if nfm is not None and other is not None]


def _bins(tokens: Float[np.ndarray, "group pos"]) -> list[tuple[int, int]]:
    """First and last position of each bin with a scored token: 0, 1, 2 to 3, 4 to 7, and so on."""
    last = tokens.shape[1] - 1
    starts = [0, *(2**i for i in range(last.bit_length()))]
    ends = [*(start - 1 for start in starts[1:]), last]
    found = [(a, b) for a, b in zip(starts, ends, strict=True) if a <= b]
    return [(a, b) for a, b in found if tokens[:, a : b + 1].any()]


def _binned(values: Float[np.ndarray, "group pos"], bins: list[tuple[int, int]]) -> PerGroup:
    return np.stack([values[:, first : last + 1].sum(1) for first, last in bins], axis=1)


def _difference(sums: PerGroup, sizes: PerGroup) -> dict[str, list[Any]]:
    """Mean paired difference in every bin, nats/token."""
    mean, margin = clustered_mean(sums, sizes)
    return {"value": mean.tolist(), "ci95": np.stack([mean - margin, mean + margin], axis=1).tolist()}


def _gain(nfm: PerGroup, sae: PerGroup, sizes: PerGroup, bins: list[tuple[int, int]]) -> dict[str, Any]:
    """The share of the SAE's KL that the NFM takes off, by bin, and in the bins' first and second half.

    The halves are of the tokens, as nearly as bins allow; `change` is the second's share less the first's.
    """
    shares = [_reduction(nfm[:, i], sae[:, i], sizes[:, i]) for i in range(len(bins))]
    before = np.cumsum(sizes.sum(0))[:-1]
    split = 1 + int(np.abs(before - sizes.sum() / 2).argmin())
    halves = [(of[:, :split].sum(1), of[:, split:].sum(1)) for of in (nfm, sae, sizes)]
    early, late = (_reduction(*half) for half in zip(*halves, strict=True))
    (a, as_), (b, bs) = early, late
    return {
        "value": [value for value, _ in shares],
        "ci95": [list(Jackknife.of(*share).ci95) for share in shares],
        "early": {"positions": [bins[0][0], bins[split - 1][1]], **_json(early)},
        "late": {"positions": [bins[split][0], bins[-1][1]], **_json(late)},
        "change": as_json(Jackknife.of(b - a, bs - as_)),
    }


def _reduction(
    above: np.ndarray, below: np.ndarray, sizes: np.ndarray
) -> tuple[float, Float[np.ndarray, " group"]]:
    """1 − Σ above / Σ below, and the same without each of the groups; NaN where `below` may be 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = Jackknife.of(below.sum() / sizes.sum(), (below.sum() - below) / (sizes.sum() - sizes))
        if not mean.shows_more_than(0):
            return np.nan, np.full(len(below), np.nan)
        without = 1 - (above.sum() - above) / (below.sum() - below)
        return float(1 - above.sum() / below.sum()), without


def _json(share: tuple[float, np.ndarray]) -> dict[str, Any]:
    return as_json(Jackknife.of(*share)) or {}


def _across(summary: Summary, a: str, b: str) -> dict[str, Any]:
    """How the documents' ratios are distributed, and whether a few of them hold the difference.

    `top_tenth` is of the tenth of the documents whose KL falls the most: the share of the whole fall that is
    theirs (null where there is none), and the share of the tokens.
    """
    over, under, tokens = summary.documents("kl", a), summary.documents("kl", b), summary.tokens
    fall = under - over
    most = np.argsort(-fall)[: max(1, round(_FRACTION * len(fall)))]
    told = (over > 0) & (under > 0)
    return {
        "a": a,
        "b": b,
        "documents": len(fall),
        "lower": float((over < under).mean()),
        "log_ratio": _histogram(np.log(over[told] / under[told])),
        "top_tenth": {
            "fall": float(fall[most].sum() / fall.sum()) if fall.sum() > 0 else None,
            "tokens": float(tokens[most].sum() / tokens.sum()),
        },
    }


def _histogram(values: Float[np.ndarray, " document"]) -> dict[str, Any] | None:
    """Counts between edges, in natural logarithms, and quartiles."""
    if not len(values):
        return None
    low, high = np.quantile(values, [_TAIL, 1 - _TAIL])
    if low == high:
        low, high = low - 1e-3, high + 1e-3
    counts, edges = np.histogram(values.clip(low, high), bins=min(_BARS, max(8, len(values) // 10)))
    quartiles = np.quantile(values, [0.25, 0.5, 0.75])
    return {"edges": edges.tolist(), "counts": counts.tolist(), "quartiles": quartiles.tolist()}
