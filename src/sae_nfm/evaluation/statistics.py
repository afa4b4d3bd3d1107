"""Intervals and tests that respect that a document's tokens are alike and that conditions share tokens."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

_CHUNK = 1 << 24  # resampling weights held at once


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95% interval."""

    value: float
    ci95: tuple[float, float]

    @classmethod
    def of(cls, value: float, replicates: Float[np.ndarray, " resample"]) -> "Estimate":
        """The percentile interval of bootstrap replicates."""
        low, high = np.quantile(replicates, [0.025, 0.975])
        return cls(float(value), (float(low), float(high)))


def document_bootstrap(
    sums: Float[np.ndarray, "row document"], resamples: int, seed: int
) -> Float[np.ndarray, "resample row"]:
    """Sums of every row over documents drawn with replacement, the same documents for all rows.

    Rows are per-document sums (of a KL under some condition, of tokens, …); a quotient of two columns is then
    a mean or a ratio, and differences between such quotients keep their pairing.
    """
    num_documents = sums.shape[1]
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // num_documents)
    out = []
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        counts = generator.multinomial(num_documents, np.full(num_documents, 1 / num_documents), size=size)
        out.append(counts @ sums.T)
    return np.concatenate(out)


def clustered_t(
    differences: Float[np.ndarray, " document"], tokens: Float[np.ndarray, " document"]
) -> dict[str, float]:
    """t-test that the mean paired difference per token is 0, with errors clustered by document.

    Cluster-robust variance with the G/(G−1) correction and G − 1 degrees of freedom (Cameron & Miller 2015,
    "A practitioner's guide to cluster-robust inference", eq. 11 for a mean).

    Args:
        differences: Σ of the paired difference over each document's tokens.
        tokens: tokens of each document.
    """
    num = len(tokens)
    mean = differences.sum() / tokens.sum()
    scores = differences - mean * tokens
    error = np.sqrt(num / (num - 1) * (scores**2).sum()) / tokens.sum()
    with np.errstate(divide="ignore"):  # documents that are all alike leave no error
        t = mean / error if mean else 0.0
    return {
        "t": float(t),
        "df": num - 1,
        "p": float(2 * stats.t.sf(abs(t), num - 1)),
        "standard_error": float(error),
    }


def wilcoxon(differences: Float[np.ndarray, " document"]) -> dict[str, float]:
    """Signed-rank test on the documents' mean differences."""
    if not differences.any():
        return {"statistic": 0.0, "p": 1.0, "n_documents": len(differences)}
    result: Any = stats.wilcoxon(differences)
    return {"statistic": float(result.statistic), "p": float(result.pvalue), "n_documents": len(differences)}


def unpaired_t(a: tuple[float, float, int], b: tuple[float, float, int]) -> dict[str, float]:
    """The published test: means, standard deviations and counts of both samples, taken as independent."""
    result = stats.ttest_ind_from_stats(*a, *b)
    return {"t": float(result.statistic), "p": float(result.pvalue)}


def holm(p: list[float]) -> list[float]:
    """p-values adjusted for their family by Holm's step-down method (Holm 1979)."""
    order = np.argsort(p)
    adjusted = np.maximum.accumulate([(len(p) - rank) * p[i] for rank, i in enumerate(order)])
    out = np.empty(len(p))
    out[order] = np.minimum(adjusted, 1)
    return out.tolist()
