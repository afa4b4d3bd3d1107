"""Sums over scored tokens, from which every figure of an evaluation follows.

Nothing here grows with the number of tokens: sums by condition, by document, by position in the block within
groups of documents, and a histogram that is fine enough for a median good to 1%.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torchmetrics import Metric

from sae_nfm.measures.divergence import CORE, TOP_N

DISTANCES = ("mse", "l2", "cosine")
"""How far the activation itself is moved: squared error per dimension, its norm, and cos(x, replacement)."""

HISTOGRAM_MIN, HISTOGRAM_RATIO, HISTOGRAM_BINS = 1e-12, 1.01, 3480
"""Bins [min·ratio^i, min·ratio^(i+1)) up to 1,093 nats; smaller values are counted in the first."""

GROUPS = 256
"""Of documents, n and n + 256 in one: sums by position and document would not be of constant size."""


def measures(top_n: int) -> tuple[str, ...]:
    """Names of the per-token values that are summed, in their order."""
    return (*CORE, *(TOP_N if top_n else ()), *DISTANCES)


class TokenValues(NamedTuple):
    """What was measured on one batch of blocks, before reduction."""

    by_measure: Float[Tensor, "measure condition block pos"]
    """Means over draws, in the order of `measures`."""
    kl_draws: list[Float[Tensor, "_draw block pos"]]
    """Every KL of every condition."""
    scored: Bool[Tensor, "block pos"]
    has_target: Bool[Tensor, "block pos"]
    """Scored tokens with a scored next token in the block, over which `ce` is averaged."""
    documents: Int64[Tensor, "block pos"]


class Float64Sums(Metric):
    """Sums in float64, which are added up over processes, and given on the CPU."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.set_dtype(torch.float64)

    def add_sums(self, **shapes: int | tuple[int, ...]) -> None:
        """Add sums of some shapes, all 0."""
        for name, shape in shapes.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def compute(self) -> Any:
        """The sums themselves, by name."""
        return {name: getattr(self, name).detach().cpu() for name in self._defaults}


class EvaluationSums(Float64Sums):
    """Sums over scored tokens, of which `summary.py` makes figures.

    Args:
        measures: names of the per-token values, `kl` and `ce` the first two.
        num_conditions: conditions, in the caller's order.
        context: tokens per block.
        num_documents: documents of the split.
    """

    draws: Tensor
    kl_sum: Tensor
    kl_squared: Tensor
    kl_min: Tensor
    kl_max: Tensor
    histogram: Tensor
    by_document: Tensor
    tokens_by_document: Tensor
    targets_by_document: Tensor
    by_position: Tensor
    tokens_by_position: Tensor
    products: Tensor
    worse: Tensor

    def __init__(
        self, measures: tuple[str, ...], num_conditions: int, context: int, num_documents: int
    ) -> None:
        super().__init__()
        assert measures[:2] == ("kl", "ce")
        self.add_sums(
            kl_sum=num_conditions,
            kl_squared=num_conditions,
            by_document=(len(measures), num_conditions, num_documents),
            tokens_by_document=num_documents,
            targets_by_document=num_documents,
            by_position=(num_conditions, GROUPS, context),
            tokens_by_position=(GROUPS, context),
            products=(num_conditions, num_conditions),
            worse=(num_conditions, num_conditions),
        )
        counts = torch.zeros(num_conditions, HISTOGRAM_BINS, dtype=torch.int64)
        self.add_state("histogram", counts, dist_reduce_fx="sum")
        self.add_state("draws", torch.zeros(num_conditions, dtype=torch.int64), dist_reduce_fx="sum")
        infinite = torch.full((num_conditions,), torch.inf, dtype=torch.float64)
        self.add_state("kl_min", infinite, dist_reduce_fx="min")
        self.add_state("kl_max", -infinite, dist_reduce_fx="max")

    def update(self, values: TokenValues) -> None:
        """Add a batch of blocks."""
        self._add_draws(values)
        scored = values.scored
        by_measure = values.by_measure.double()
        by_measure[1] *= values.has_target
        tokens = by_measure[:, :, scored]
        documents = values.documents[scored]
        self.by_document.index_add_(2, documents, tokens)
        self.tokens_by_document.index_add_(0, documents, torch.ones_like(tokens[0, 0]))
        targets = values.documents[
            values.has_target
        ]  # by index: a batch is small, and the documents are many
        self.targets_by_document.index_add_(0, targets, torch.ones_like(targets, dtype=torch.float64))
        kl = tokens[0]
        self.products += kl @ kl.T
        for a in range(len(kl)):
            self.worse[a] += (kl[a] > kl).sum(1)
        context = scored.shape[1]
        at = documents % GROUPS * context + scored.nonzero()[:, 1]
        self.by_position.flatten(1).index_add_(1, at, kl)
        self.tokens_by_position += torch.bincount(at, minlength=GROUPS * context).view(GROUPS, context)

    def _add_draws(self, values: TokenValues) -> None:
        for condition, draws in enumerate(values.kl_draws):
            kl = draws[:, values.scored].double().flatten()
            if not len(kl):
                continue
            self.draws[condition] += len(kl)
            self.kl_sum[condition] += kl.sum()
            self.kl_squared[condition] += kl.pow(2).sum()
            self.kl_min[condition] = torch.minimum(self.kl_min[condition], kl.min())
            self.kl_max[condition] = torch.maximum(self.kl_max[condition], kl.max())
            self.histogram[condition] += torch.bincount(histogram_bin(kl), minlength=HISTOGRAM_BINS)


def histogram_bin(kl: Float[Tensor, " value"]) -> Int64[Tensor, " value"]:
    """Bin of each value; rounding may leave a KL of 0 slightly negative, which falls in the first bin."""
    exponent = (kl.clamp_min(HISTOGRAM_MIN) / HISTOGRAM_MIN).log() / torch.log(kl.new_tensor(HISTOGRAM_RATIO))
    return exponent.clamp(0, HISTOGRAM_BINS - 1).long()


def histogram_edges() -> Float[Tensor, " edge"]:
    """The bins' borders in nats."""
    return HISTOGRAM_MIN * HISTOGRAM_RATIO ** torch.arange(HISTOGRAM_BINS + 1, dtype=torch.float64)
