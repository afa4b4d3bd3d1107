"""Sums by key in bounded memory, where there are more keys than can be counted one by one."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

DEPTH = 5
_KEPT = 4096
_ODD = (0x1E3779B97F4A7C15, 0x3F58476D1CE4E5B9, 0x14D049BB133111EB, 0x2545F4914F6CDD1D, 0x27D4EB2F165667C5)
_SIGNS = (0x165667B19E3779F9, 0x3C6EF372FE94F82B, 0x1B873593CC9E2D51, 0x2127599BF4325C37, 0x369DEA0F31A53F85)


class CountSketch:
    """Signed sums of every key in `DEPTH` rows of cells (Charikar, Chen & Farach-Colton 2002).

    The estimate of a key is the median of its rows. Sketches of disjoint data add up to that of all.

    Args:
        table: the cells, a power of two in every row; it is changed in place.
    """

    def __init__(self, table: Float[Tensor, "depth width"]) -> None:
        self.table = table
        self._bits = int(table.shape[1] - 1).bit_length()

    def add(self, keys: Int64[Tensor, " entry"], values: Float[Tensor, " entry"]) -> None:
        """Add values to their keys."""
        for row, (cells, signs) in enumerate(self._hashed(keys)):
            self.table[row].index_add_(0, cells, signs * values.to(self.table.dtype))

    def estimate(self, keys: Int64[Tensor, " key"]) -> Float[Tensor, " key"]:
        """The sum of each key, up to `error`."""
        rows = [signs * self.table[row][cells] for row, (cells, signs) in enumerate(self._hashed(keys))]
        return torch.stack(rows).median(0).values

    def error(self) -> float:
        """Three standard deviations of a row's estimate, √(Σ sum² / width).

        A row is further off with a probability of 1/9 at most, and the median of five with one of 1.2%.
        """
        return 3 * float((self.table.pow(2).sum(1).median() / self.table.shape[1]).sqrt())

    def largest(self, candidates: Int64[Tensor, " key"]) -> Int64[Tensor, " kept"]:
        """Of some keys those whose sums are largest in size, the largest first; no key twice."""
        keys = candidates.unique()
        order = self.estimate(keys).abs().argsort(descending=True, stable=True)
        return keys[order[:_KEPT]]

    def heaviest(
        self, keys: Int64[Tensor, " entry"], values: Float[Tensor, " entry"]
    ) -> Int64[Tensor, " kept"]:
        """Keys whose sums over these entries alone are largest in size."""
        unique, places = keys.unique(return_inverse=True)
        sums = torch.zeros(len(unique), dtype=self.table.dtype, device=keys.device)
        sums.index_add_(0, places, values.to(sums.dtype))
        return unique[sums.abs().topk(min(_KEPT, len(unique))).indices]

    def _hashed(self, keys: Int64[Tensor, " entry"]) -> list[tuple[Tensor, Tensor]]:
        out = []
        for odd, sign in zip(_ODD, _SIGNS, strict=True):
            mixed = keys ^ (keys >> 29)
            cells = ((mixed * odd) >> (63 - self._bits)) & (self.table.shape[1] - 1)
            signs = 1 - 2 * (((mixed * sign) >> 47) & 1)
            out.append((cells, signs.to(self.table.dtype)))
        return out
