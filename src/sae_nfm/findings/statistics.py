"""Intervals and tests that respect that a document's tokens are alike and that conditions share tokens."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import stats


@dataclass(frozen=True)
class Jackknife:
    """A figure and its 95% interval by the delete-one-document jackknife."""

    value: float
    ci95: tuple[float, float]

    @classmethod
    def of(cls, value: float, without: Float[np.ndarray, " document"]) -> "Jackknife":
        """The interval by t with G − 1 degrees of freedom, for G documents.

        Of what is known for few and unequal clusters it comes closest to its coverage, and closer than the
        bootstrap's percentiles (MacKinnon, Nielsen & Webb 2023, "Fast and reliable jackknife and bootstrap
        methods for cluster-robust inference", CV3).

        Args:
            value: the figure of all documents.
            without: the same figure without each of them.
        """
        num = len(without)
        error = np.sqrt((num - 1) / num * ((without - value) ** 2).sum())
        margin = float(stats.t.ppf(0.975, num - 1) * error)
        return cls(float(value), (float(value) - margin, float(value) + margin))

    def shows_more_than(self, value: float) -> bool:
        """Whether the whole interval lies above a value."""
        return self.ci95[0] > value


def clustered_error(
    sums: Float[np.ndarray, "cluster ..."], tokens: Float[np.ndarray, "cluster ..."]
) -> tuple[np.floating | Float[np.ndarray, "..."], np.integer | Int[np.ndarray, "..."]]:
    """Standard error of the mean per token Σ sums / Σ tokens, and its degrees of freedom.

    Cluster-robust variance with the G/(G−1) correction and G − 1 degrees of freedom (Cameron & Miller 2015,
    "A practitioner's guide to cluster-robust inference", eq. 11 for a mean). Clusters without tokens do not
    count; of one cluster the error is NaN.

    Args:
        sums: Σ of a value over each cluster's tokens.
        tokens: of each cluster.
    """
    num, total = (tokens > 0).sum(0), tokens.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = sums - sums.sum(0) / total * tokens
        return np.sqrt(num / (num - 1) * (scores**2).sum(0)) / total, num - 1


def clustered_mean(
    sums: Float[np.ndarray, "cluster ..."], tokens: Float[np.ndarray, "cluster ..."]
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Mean per token, and half of its 95% interval; of no tokens NaN, of one cluster a NaN interval."""
    error, df = clustered_error(sums, tokens)
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums.sum(0) / tokens.sum(0), stats.t.ppf(0.975, df) * error


def clustered_t(
    differences: Float[np.ndarray, " document"], tokens: Float[np.ndarray, " document"]
) -> dict[str, float]:
    """t-test that the mean paired difference per token is 0, with errors clustered by document.

    Args:
        differences: Σ of the paired difference over each document's tokens.
        tokens: tokens of each document.
    """
    mean = differences.sum() / tokens.sum()
    error, df = clustered_error(differences, tokens)
    with np.errstate(divide="ignore"):  # documents that are all alike leave no error
        t = mean / error if mean else 0.0
    return {
        "t": float(t),
        "df": int(df),
        "p": float(2 * stats.t.sf(abs(t), df)),
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
