"""Sums → the figures of `result.json`: conditions, ratios, headlines and tests."""

from typing import Any

import numpy as np
from scipy import stats
from torch import Tensor

from sae_nfm.evaluation.condition import Condition
from sae_nfm.findings.statistics import (
    Estimate,
    clustered_error,
    clustered_t,
    holm,
    unpaired_t,
    wilcoxon,
)
from sae_nfm.measures.divergence import TOP_N
from sae_nfm.measures.sums import histogram_edges, measures
from sae_nfm.settings.values import NotAllowed

_COARSE = 29  # fine histogram bins per bin of the result: an eighth of a decade


class Summary:
    """Figures of one evaluation.

    Args:
        conditions: in the order of the sums.
        sums: what `EvaluationSums.compute` returns.
        top_n: tokens that the top-N measures looked at; 0 where there are none of these measures.

    Raises:
        NotAllowed: the sums hold fewer than two documents, so that nothing can be said about their spread.
    """

    def __init__(self, conditions: list[Condition], sums: dict[str, Tensor], top_n: int) -> None:
        self.conditions, self.names = conditions, [condition.name for condition in conditions]
        self.top_n, self.measures = top_n, measures(top_n)
        self.sums = {name: value.numpy() for name, value in sums.items()}
        kept = self.sums["tokens_by_document"] > 0
        if kept.sum() < 2:
            tokens, because = (
                int(self.sums["tokens_by_document"].sum()),
                f"they come from {kept.sum()} document",
            )
            raise NotAllowed("eval_tokens", tokens, "so many that they come from 2 or more", because)
        self.by_document = self.sums["by_document"][:, :, kept]
        self.tokens = self.sums["tokens_by_document"][kept]
        targets = self.sums["targets_by_document"][kept]
        self._counted = {"kl": self.tokens, "mse": self.tokens, "ce": targets}

    def _documents(self, measure: str, name: str) -> np.ndarray:
        """Σ of a measure over each document's tokens."""
        return self.by_document[self.measures.index(measure), self.names.index(name)]

    def _mean(self, measure: str, name: str) -> tuple[float, np.ndarray]:
        """Mean per token, and the same without each of the documents."""
        sums, counted = self._documents(measure, name), self._counted[measure]
        with np.errstate(invalid="ignore", divide="ignore"):
            return sums.sum() / counted.sum(), (sums.sum() - sums) / (counted.sum() - counted)

    def estimate(self, measure: str, name: str) -> Estimate:
        """Mean of a measure per token."""
        return Estimate.of(*self._mean(measure, name))

    def difference(self, measure: str, a: str, b: str) -> Estimate:
        """Mean of a measure under `a` less that under `b`."""
        (x, xs), (y, ys) = self._mean(measure, a), self._mean(measure, b)
        return Estimate.of(x - y, xs - ys)

    def ratio(self, measure: str, a: str, b: str) -> Estimate | None:
        """Mean of a measure under `a` over that under `b`; None where the latter may be 0."""
        (x, xs), (y, ys) = self._mean(measure, a), self._mean(measure, b)
        return Estimate.of(x / y, xs / ys) if Estimate.of(y, ys).shows_more_than(0) else None

    def ratio_difference(self, measure: str, a: tuple[str, str], b: tuple[str, str]) -> Estimate | None:
        """The ratio of the pair `a` less that of the pair `b`; None where either has none."""
        if self.ratio(measure, *a) is None or self.ratio(measure, *b) is None:
            return None
        means = [[self._mean(measure, name) for name in pair] for pair in (a, b)]
        (x, xs), (y, ys) = ((over[0] / under[0], over[1] / under[1]) for over, under in means)
        return Estimate.of(x - y, xs - ys)

    def reduction(self, measure: str, a: str, b: str) -> Estimate | None:
        """1 − ratio of `a` to `b`: the share of `b` that `a` takes away."""
        ratio = self.ratio(measure, a, b)
        return None if ratio is None else Estimate(1 - ratio.value, (1 - ratio.ci95[1], 1 - ratio.ci95[0]))

    def share(self, measure: str, a: str, b: str, start: str) -> Estimate | None:
        """(start − a) / (start − b): what `a` takes off `start`, as a share of what `b` does.

        None where `b` may take off nothing.
        """
        (x, xs), (y, ys), (z, zs) = (self._mean(measure, name) for name in (a, b, start))
        found = Estimate.of(z - y, zs - ys).shows_more_than(0)
        return Estimate.of((z - x) / (z - y), (zs - xs) / (zs - ys)) if found else None

    def condition(self, name: str) -> dict[str, Any]:
        """The entry of one condition in `result.json`."""
        plain = {
            measure: float(self._documents(measure, name).sum() / self.tokens.sum())
            for measure in self.measures
        }
        increase = self.difference("ce", name, "clean")
        number = self.names.index(name)
        return {
            "n": int(self.sums["draws"][number]),
            "draws": self.conditions[number].draws,
            "kl": self._kl(name),
            "ce": self._mean("ce", name)[0],
            "ce_increase": increase.value,
            "ce_increase_ci95": list(increase.ci95),
            "top1_agreement": plain["agreement"],
            "l2": plain["l2"],
            "mse": plain["mse"],
            "cosine": plain["cosine"],
            "loss_recovered": self._loss_recovered(name),
            **self._top_n(plain),
            "by_position": self._by_position(number),
        }

    def _loss_recovered(self, name: str) -> float | None:
        """1 − (CE − CE(clean)) / (CE(zero) − CE(clean)); None where the zero vector was not spliced in."""
        if "zero" not in self.names:
            return None
        clean = self._mean("ce", "clean")[0]
        return float(1 - (self._mean("ce", name)[0] - clean) / (self._mean("ce", "zero")[0] - clean))

    def _top_n(self, plain: dict[str, float]) -> dict[str, Any]:
        if not self.top_n:
            return {}
        top = {name.removeprefix("top_n_"): plain[name] for name in TOP_N if name.startswith("top_n_")}
        others = {name: plain[name] for name in TOP_N if not name.startswith("top_n_")}
        return {"top_n": {"n": self.top_n, **top}, **others}

    def _kl(self, name: str) -> dict[str, Any]:
        number, estimate = self.names.index(name), self.estimate("kl", name)
        low, high = float(self.sums["kl_min"][number]), float(self.sums["kl_max"][number])
        counts = self.sums["histogram"][number]
        return {
            "mean": estimate.value,
            "ci95": list(estimate.ci95),
            "std": self._moments(name)[1],
            "median": _median(counts, low, high),
            "min": low,
            "max": high,
            "histogram": _coarse(counts),
        }

    def _moments(self, name: str) -> tuple[float, float, int]:
        """Mean, standard deviation and number of all KL values, draws included."""
        number = self.names.index(name)
        n, total = int(self.sums["draws"][number]), float(self.sums["kl_sum"][number])
        variance = (float(self.sums["kl_squared"][number]) - total**2 / n) / max(1, n - 1)
        return total / n, max(0.0, variance) ** 0.5, n

    def _by_position(self, number: int) -> dict[str, list[Any]]:
        """Mean KL at each position, with a t-interval clustered by groups of documents."""
        sums, tokens = self.sums["by_position"][number], self.sums["tokens_by_position"]
        error, df = clustered_error(sums, tokens)
        with np.errstate(invalid="ignore"):
            mean, margin = sums.sum(0) / tokens.sum(0), stats.t.ppf(0.975, df) * error
        return {
            "kl": [float(m) if np.isfinite(m) else None for m in mean],
            "ci95": [
                [float(m - e), float(m + e)] if np.isfinite(e) else None
                for m, e in zip(mean, margin, strict=True)
            ],
        }

    def tests(self, pairs: list[tuple[str, str]]) -> list[dict[str, Any]]:
        """Paired tests of KL between conditions, Holm-adjusted over the family of these pairs."""
        out = [self._test(a, b) for a, b in pairs]
        adjusted = holm([test["paired_t_clustered"]["p"] for test in out])
        return [{**test, "p_holm": p} for test, p in zip(out, adjusted, strict=True)]

    def _test(self, a: str, b: str) -> dict[str, Any]:
        differences = self._documents("kl", a) - self._documents("kl", b)
        estimate = self.difference("kl", a, b)
        i, j = self.names.index(a), self.names.index(b)
        n, products = self.tokens.sum(), self.sums["products"]
        squared = (products[i, i] - 2 * products[i, j] + products[j, j]) / n
        deviation = max(1e-300, squared - estimate.value**2) ** 0.5
        return {
            "a": a,
            "b": b,
            "difference": {"mean": estimate.value, "ci95": list(estimate.ci95)},
            "paired_t_clustered": clustered_t(differences, self.tokens),
            "wilcoxon": wilcoxon(differences / self.tokens),
            "cohens_d": estimate.value / deviation,
            "unpaired_t_as_published": unpaired_t(self._moments(a), self._moments(b)),
            "fraction_worse": float(self.sums["worse"][i, j] / n),
        }


def _median(counts: np.ndarray, low: float, high: float) -> float:
    """Middle of the bin that holds the median, good to half the bins' 1%."""
    edges = histogram_edges().numpy()
    middle = int(np.searchsorted(np.cumsum(counts), (counts.sum() + 1) / 2))
    return float(np.clip(np.sqrt(edges[middle] * edges[middle + 1]), low, high))


def _coarse(counts: np.ndarray) -> dict[str, list[Any]]:
    """A histogram coarse enough to draw, without its empty ends."""
    grouped = counts.reshape(-1, _COARSE).sum(1)
    edges = histogram_edges().numpy()[::_COARSE]
    filled = np.flatnonzero(grouped)
    first, last = int(filled[0]), int(filled[-1]) + 1
    return {"edges": edges[first : last + 1].tolist(), "counts": grouped[first:last].tolist()}
