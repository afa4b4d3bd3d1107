"""Differences between studies, with intervals: paired by document where both scored the same ones."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

from sae_nfm.compare.documents import Replicated
from sae_nfm.compare.measures import Measure
from sae_nfm.compare.studies import ComparedStudy
from sae_nfm.report.estimates import Estimate

Pair = tuple[ComparedStudy, ComparedStudy]
"""What a measure is taken off, and what it is taken of."""


class Difference(NamedTuple):
    """How much higher a measure is in one study than in another."""

    size: Estimate
    paired: bool  # by document; otherwise the studies' intervals are taken as independent

    @property
    def shown(self) -> Estimate:
        """The size with no more digits of its value than its interval tells of."""
        value, low, high = self.size
        if low is None or high is None or low == high:
            return self.size
        digits = 1 - math.floor(math.log10((high - low) / 2))
        return Estimate(round(value, digits) + 0.0, low, high)  # + 0.0: no minus before a zero


def difference(measure: Measure, pair: Pair) -> Difference | None:
    """The second study's figure less the first's; None where one has none."""
    return mean_difference(measure, [pair])


def mean_difference(measure: Measure, pairs: Sequence[Pair]) -> Difference | None:
    """The mean difference over pairs of studies that have the measure; None without any.

    Where all studies scored the same documents, a document is left out of all of them at once, so that what
    documents have in common cancels. Where they did not, the ends of the pairs' own intervals are averaged:
    pairs may be alike, and then more of them say no more.
    """
    pairs = [pair for pair in pairs if all(study.values[measure.name] for study in pair)]
    if not pairs:
        return None
    together = [_replicates(measure, pair) for pair in pairs]
    paired = [each for each in together if each is not None]
    texts = {study.documents.scored_on for pair in pairs for study in pair if study.documents}
    if len(paired) == len(pairs) and len(texts) == 1:
        values, without = zip(*paired, strict=True)
        return Difference(jackknife(float(np.mean(values)), np.mean(without, axis=0)), True)
    each = [
        jackknife(*of) if of else independent(measure, pair) for of, pair in zip(together, pairs, strict=True)
    ]
    return Difference(_mean(each), len(paired) == len(pairs))


def _replicates(measure: Measure, pair: Pair) -> Replicated | None:
    """The difference with and without each document; None where the studies have none in common."""
    before, after = (study.documents for study in pair)
    if before is None or after is None or before.scored_on != after.scored_on or measure.by_document is None:
        return None
    x, y = measure.by_document(before), measure.by_document(after)
    return Replicated(y.value - x.value, y.without - x.without) if x and y else None


def jackknife(value: float, without: Float[np.ndarray, " document"]) -> Estimate:
    """The figure with its 95% interval by the delete-one-document jackknife, as a study's own are made.

    Args:
        value: of all documents.
        without: the same without each of them.
    """
    num = len(without)
    error = math.sqrt((num - 1) / num * float(((without - value) ** 2).sum()))
    margin = float(stdtrit(num - 1, 0.975)) * error
    return Estimate(value, value - margin, value + margin)


def independent(measure: Measure, pair: Pair) -> Estimate:
    """The difference as if the studies shared nothing, by MOVER (Zou & Donner 2008, eq. 5).

    Without an interval where one of the studies has none.
    """
    x, y = (study.values[measure.name] for study in pair)
    assert x is not None
    assert y is not None
    value = y.value - x.value
    if x.low is None or x.high is None or y.low is None or y.high is None:
        return Estimate(value)
    below = math.hypot(y.value - y.low, x.high - x.value)
    return Estimate(value, value - below, value + math.hypot(y.high - y.value, x.value - x.low))


def _mean(found: Sequence[Estimate]) -> Estimate:
    value = float(np.mean([each.value for each in found]))
    ends = [(each.low, each.high) for each in found if each.low is not None and each.high is not None]
    if len(ends) < len(found):
        return Estimate(value)
    low, high = np.mean(ends, axis=0)
    return Estimate(value, float(low), float(high))
