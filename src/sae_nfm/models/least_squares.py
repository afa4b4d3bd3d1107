"""Exact linear maps of sparse features: ridge regression from streamed normal equations."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_nfm.models.codes import Codes, transposed_sum

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""To choose from on held-out tokens, relative to the mean of the features' squared norms."""
_SCATTER_COST = 32  # of one scattered addition, in multiply-adds of a matrix product
_ENTRIES_AT_ONCE = 1 << 25  # of pairs or dense features held in memory


class NormalEquations:
    """Φᵀ Φ and Φᵀ R over any number of tokens, in float64: (features + 1)² · 8 bytes.

    Args:
        num_features: length of φ.
        d_out: length of a target r.
        bias: whether a constant feature stands beside φ.
        device: where they are summed.
    """

    def __init__(self, num_features: int, d_out: int, bias: bool, device: torch.device) -> None:
        self.num_features, self.bias = num_features, bias
        size = num_features + bias
        self._gram = torch.zeros(size, size, dtype=torch.float64, device=device)  # its symmetric part counts
        self.cross = torch.zeros(size, d_out, dtype=torch.float64, device=device)

    def add(self, features: Codes, target: Float[Tensor, "token d_out"]) -> None:
        """Add tokens, by the products of the k active features alone where that is less work."""
        size = len(self._gram)
        if self.bias:
            values = nn.functional.pad(features.values, (0, 1), value=1.0)
            features = Codes(values, nn.functional.pad(features.indices, (0, 1), value=size - 1))
        k = features.values.shape[1]
        dense = _SCATTER_COST * k**2 > size**2
        first, second = torch.triu_indices(k, k, device=features.values.device)  # every pair once
        at_once = max(1, _ENTRIES_AT_ONCE // (size if dense else k**2))
        for start in range(0, len(target), at_once):
            rows = slice(start, start + at_once)
            values, indices = features.values[rows].double(), features.indices[rows]
            if dense:
                written = Codes(values, indices).dense(size)
                self._gram += written.T @ written
                self.cross += written.T @ target[rows].double()
            else:
                products = values[:, first] * values[:, second] * (1 + (first < second))
                pairs = indices[:, first] * size + indices[:, second]
                self._gram.view(-1).scatter_add_(0, pairs.flatten(), products.flatten())
                self.cross += transposed_sum(values.to(target.dtype), indices, target[rows], size)

    @property
    def gram(self) -> Float[Tensor, "size size"]:
        """Φᵀ Φ."""
        return (self._gram + self._gram.T) / 2

    def solve(self, ridge: float) -> tuple[Float[Tensor, "features d_out"], Float[Tensor, " d_out"] | None]:
        """Weights and bias of least squared error; `ridge` settles dead features, and spares the bias."""
        gram = self.gram
        diagonal = gram.diagonal()
        diagonal[: self.num_features] += ridge * diagonal[: self.num_features].mean()
        factor = torch.linalg.cholesky(gram)
        solution = torch.cholesky_solve(self.cross, factor)
        return solution[: self.num_features], solution[-1] if self.bias else None
