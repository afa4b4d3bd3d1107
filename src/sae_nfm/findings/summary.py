"""Sums → means per token, and what is made of them: differences, ratios, shares, each with its interval."""

import numpy as np
from jaxtyping import Float
from torch import Tensor

from sae_nfm.evaluation.condition import Condition
from sae_nfm.findings.statistics import Jackknife
from sae_nfm.measures.sums import measures
from sae_nfm.settings.values import NotAllowed


class Summary:
    """Figures of one evaluation, by the conditions' names.

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
        by_document = self.sums["by_document"]
        self.by_document = by_document if kept.all() else by_document[:, :, kept]  # it is large
        self.tokens = self.sums["tokens_by_document"][kept]
        targets = self.sums["targets_by_document"][kept]
        self._counted = {"kl": self.tokens, "mse": self.tokens, "ce": targets}

    def of_role(self, role: str) -> str | None:
        """Name of the first condition that has a role; None where none has it."""
        return next((condition.name for condition in self.conditions if condition.role == role), None)

    def documents(self, measure: str, name: str) -> Float[np.ndarray, " document"]:
        """Σ of a measure over each document's tokens."""
        return self.by_document[self.measures.index(measure), self.names.index(name)]

    def mean(self, measure: str, name: str) -> tuple[float, Float[np.ndarray, " document"]]:
        """Mean per token, and the same without each of the documents."""
        sums, counted = self.documents(measure, name), self._counted[measure]
        with np.errstate(invalid="ignore", divide="ignore"):
            return sums.sum() / counted.sum(), (sums.sum() - sums) / (counted.sum() - counted)

    def moments(self, name: str) -> tuple[float, float, int]:
        """Mean, standard deviation and number of all KL values, draws included."""
        number = self.names.index(name)
        n, total = int(self.sums["draws"][number]), float(self.sums["kl_sum"][number])
        variance = (float(self.sums["kl_squared"][number]) - total**2 / n) / max(1, n - 1)
        return total / n, max(0.0, variance) ** 0.5, n

    def level(self, measure: str, name: str) -> Jackknife:
        """Mean of a measure per token, with its interval."""
        return Jackknife.of(*self.mean(measure, name))

    def difference(self, measure: str, a: str, b: str) -> Jackknife:
        """Mean of a measure under `a` less that under `b`."""
        (x, xs), (y, ys) = self.mean(measure, a), self.mean(measure, b)
        return Jackknife.of(x - y, xs - ys)

    def ratio(self, measure: str, a: str, b: str) -> Jackknife | None:
        """Mean of a measure under `a` over that under `b`; None where the latter may be 0."""
        (x, xs), (y, ys) = self.mean(measure, a), self.mean(measure, b)
        return Jackknife.of(x / y, xs / ys) if Jackknife.of(y, ys).shows_more_than(0) else None

    def ratio_difference(self, measure: str, a: tuple[str, str], b: tuple[str, str]) -> Jackknife | None:
        """The ratio of the pair `a` less that of the pair `b`; None where either has none."""
        if self.ratio(measure, *a) is None or self.ratio(measure, *b) is None:
            return None
        means = [[self.mean(measure, name) for name in pair] for pair in (a, b)]
        (x, xs), (y, ys) = ((over[0] / under[0], over[1] / under[1]) for over, under in means)
        return Jackknife.of(x - y, xs - ys)

    def reduction(self, measure: str, a: str, b: str) -> Jackknife | None:
        """1 − ratio of `a` to `b`: the share of `b` that `a` takes away."""
        ratio = self.ratio(measure, a, b)
        return None if ratio is None else Jackknife(1 - ratio.value, (1 - ratio.ci95[1], 1 - ratio.ci95[0]))

    def share(self, measure: str, a: str, b: str, start: str) -> Jackknife | None:
        """(start − a) / (start − b): what `a` takes off `start`, as a share of what `b` does.

        None where `b` may take off nothing.
        """
        (x, xs), (y, ys), (z, zs) = (self.mean(measure, name) for name in (a, b, start))
        found = Jackknife.of(z - y, zs - ys).shows_more_than(0)
        return Jackknife.of((z - x) / (z - y), (zs - xs) / (zs - ys)) if found else None
