"""Sums over tokens that figures of an attribution are made of, whatever their number."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sae_nfm.attribution.attributed import Attributed
from sae_nfm.attribution.sketch import DEPTH, CountSketch
from sae_nfm.measures.sums import Float64Sums
from sae_nfm.models.codes import Codes, inner_products
from sae_nfm.models.pairs import PairOrder

SETS = {2: "pairs", 3: "triples", 4: "quadruples"}
_WIDTH = 1 << 20
"""Cells of a sketch's row."""
SKETCH_BYTES = 8 * DEPTH * _WIDTH


class PartSums(Float64Sums):
    """What every part takes off the KL, by document.

    Args:
        parts: names of what is summed.
        num_documents: of the split.
    """

    by_document: Tensor
    tokens_by_document: Tensor

    def __init__(self, parts: Sequence[str], num_documents: int) -> None:
        super().__init__()
        self.parts = tuple(parts)
        self.add_sums(by_document=(len(self.parts), num_documents), tokens_by_document=num_documents)

    def update(
        self, documents: Int64[Tensor, " token"], values: Mapping[str, Float[Tensor, " token"]]
    ) -> None:
        """Add tokens."""
        rows = torch.stack([values[part].double() for part in self.parts])
        self.by_document.index_add_(1, documents, rows)
        self.tokens_by_document += torch.bincount(documents, minlength=len(self.tokens_by_document))

    def compute(self) -> dict[str, Tensor]:
        """Sums by document, and tokens."""
        sums = dict(zip(self.parts, self.by_document.cpu(), strict=True))
        return sums | {"tokens": self.tokens_by_document.cpu()}


class LatentSums(Float64Sums):
    """What every latent takes off the KL, in the SAE and in the linear part.

    Args:
        d_sae: number of latents.
    """

    sae: Tensor
    linear: Tensor
    fired: Tensor

    def __init__(self, d_sae: int) -> None:
        super().__init__()
        self.add_sums(sae=d_sae, linear=d_sae, fired=d_sae)

    def update(self, found: Attributed, W_dec: Tensor, W_lin: Tensor | None) -> None:
        """Add tokens."""
        codes = found.parts.codes
        back = found.parts.explained.units.back
        self._add(self.fired, codes, (codes.values > 0).double())
        if found.sae is not None:
            self._add(self.sae, codes, by_latent(codes, W_dec, back * found.sae.felt))
        if found.linear is not None and W_lin is not None:
            self._add(self.linear, codes, by_latent(codes, W_lin, back * found.linear.felt))

    def _add(self, sums: Tensor, codes: Codes, values: Tensor) -> None:
        sums.index_add_(0, codes.indices.flatten(), values.flatten().double())


def by_latent(
    codes: Codes, weight: Float[Tensor, "d_sae d_in"], felt: Float[Tensor, "token d_in"]
) -> Float[Tensor, "token k"]:
    """−f_i felt·weight_i: what every active latent's row takes off."""
    return -codes.values * inner_products(felt.contiguous(), codes.indices, weight)


class PairTable(NamedTuple):
    """Pairs with what was summed up of each."""

    i: Int64[Tensor, " pair"]
    j: Int64[Tensor, " pair"]
    taken_off: Float[Tensor, " pair"]
    """Σ A_ij, in nats."""
    squared: Float[Tensor, " pair"]
    """Σ A_ij² over tokens; NaN where it was not counted pair by pair."""
    product: Float[Tensor, " pair"]
    """Σ f_i f_j; NaN likewise."""
    together: Int64[Tensor, " pair"]
    """Tokens at which both are active; -1 where they were not counted."""
    error: float | None = None
    """Of the sums that are estimated, in nats; None where all are counted."""

    def surely(self, sign: int) -> Float[Tensor, " pair"]:
        """±Σ A_ij less two standard errors, as of independent tokens; -inf where it was not counted.

        A sum that is of a few large values is not what other documents have.
        """
        return torch.nan_to_num(sign * self.taken_off - 2 * self.squared.sqrt(), nan=-torch.inf)


class PairSums(Float64Sums):
    """Σ A_ij of every pair among the busiest latents, and a sketch of all others.

    Args:
        busiest: latents that are summed pair by pair.
        d_sae: number of latents.
    """

    busiest: Tensor
    rank: Tensor
    taken_off: Tensor
    squared: Tensor
    product: Tensor
    together: Tensor
    others: Tensor
    entries: Tensor
    candidates: list[Tensor] | Tensor

    def __init__(self, busiest: Int64[Tensor, " latent"], d_sae: int) -> None:
        super().__init__()
        self.d_sae, num = d_sae, len(busiest)
        self.register_buffer("busiest", busiest, persistent=False)
        rank = torch.full((d_sae,), num, device=busiest.device)
        self.register_buffer("rank", rank.scatter(0, busiest, torch.arange(num)), persistent=False)
        self.add_sums(taken_off=num * num, squared=num * num, product=num * num)
        self.add_state("together", torch.zeros(num * num, dtype=torch.int64), dist_reduce_fx="sum")
        self.has_others = num < d_sae
        self.add_sums(others=(DEPTH, _WIDTH if self.has_others else 1))
        self.add_state("entries", torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("candidates", [], dist_reduce_fx="cat")

    def update(self, found: Attributed) -> None:
        """Add tokens."""
        pairs, num = found.pairs, len(self.busiest)
        i, j = self.rank[pairs.i], self.rank[pairs.j]
        cells, exact = torch.minimum(i, j) * num + torch.maximum(i, j), torch.maximum(i, j) < num
        if not self.has_others:
            self._count(cells, pairs.taken_off, pairs.product)
            self.entries[0] += len(cells)
            return
        self._count(cells[exact], pairs.taken_off[exact], pairs.product[exact])
        sketch = CountSketch(self.others)
        keys, values = pairs.keys(self.d_sae)[~exact], pairs.taken_off[~exact]
        sketch.add(keys, values)
        kept = [*self.candidates, sketch.heaviest(keys, values)]
        self.candidates = [sketch.largest(torch.cat(kept))]
        self.entries += torch.tensor([int(exact.sum()), len(keys)], device=self.entries.device)

    def _count(self, cells: Tensor, taken_off: Tensor, product: Tensor) -> None:
        self.taken_off.index_add_(0, cells, taken_off.double())
        self.squared.index_add_(0, cells, taken_off.double().pow(2))
        self.product.index_add_(0, cells, product.double())
        self.together.index_add_(0, cells, torch.ones_like(cells))

    def compute(self) -> PairTable:
        """All pairs that were counted, and after them the heaviest of the others by estimate."""
        num = len(self.busiest)
        cells = self.together.nonzero()[:, 0]
        first, second = self.busiest[cells // num], self.busiest[cells % num]
        of_cells = (sums[cells] for sums in (self.taken_off, self.squared, self.product, self.together))
        counted = [torch.minimum(first, second), torch.maximum(first, second), *of_cells]
        sketch = CountSketch(self.others)
        keys = sketch.largest(_all(self.candidates)) if self.has_others else cells[:0]
        unknown = torch.full((len(keys),), torch.nan, dtype=torch.float64, device=keys.device)
        latents = [keys // self.d_sae, keys % self.d_sae]
        estimated = [*latents, sketch.estimate(keys), unknown, unknown, -torch.ones_like(keys)]
        columns = (torch.cat(both).cpu() for both in zip(counted, estimated, strict=True))
        return PairTable(*columns, error=sketch.error() if self.has_others else None)


def _all(candidates: list[Tensor] | Tensor) -> Int64[Tensor, " key"]:
    """Candidates of this process, or of all once they are gathered; those of none are no integers."""
    if not len(candidates):
        return torch.zeros(0, dtype=torch.int64)
    gathered = candidates if isinstance(candidates, Tensor) else torch.cat(candidates)
    return gathered.long()


class ChosenPairs(Float64Sums):
    """What chosen pairs take off the KL, by document.

    Args:
        order: the pairs.
        num_documents: of the split.
    """

    by_document: Tensor
    together: Tensor
    product: Tensor

    def __init__(self, order: PairOrder, num_documents: int) -> None:
        super().__init__()
        self.order, num = order, order.num_pairs
        self.add_sums(by_document=(num, num_documents), together=num, product=num)

    def update(self, found: Attributed) -> None:
        """Add tokens."""
        places, pairs = found.pairs.among(self.order)
        cells = places * self.by_document.shape[1] + found.documents[pairs.token]
        self.by_document.view(-1).index_add_(0, cells, pairs.taken_off.double())
        self.product.index_add_(0, places, pairs.product.double())
        self.together += torch.bincount(places, minlength=len(self.together))


class TripleSums(Float64Sums):
    """Σ A_ijh of triples, of which there are too many to be counted one by one.

    Args:
        d_sae: number of latents.
    """

    table: Tensor
    candidates: list[Tensor] | Tensor

    def __init__(self, d_sae: int) -> None:
        super().__init__()
        self.d_sae = d_sae
        self.add_sums(table=(DEPTH, _WIDTH))
        self.add_state("candidates", [], dist_reduce_fx="cat")

    def update(self, found: Attributed) -> None:
        """Add tokens, the triples of one place in the codes after those of another."""
        codes, sketch = found.parts.codes, CountSketch(self.table)
        active, k = codes.values > 0, codes.values.shape[1]
        kept = list(self.candidates)
        for first in range(k - 2):
            products = found.interactions.triple_products(codes, found.path.felt, first)
            both = active[:, first, None, None] & active.unsqueeze(2) & active.unsqueeze(1)
            both[:, : first + 1] = False
            token, a, b = both.triu_(1).nonzero(as_tuple=True)
            of = codes.indices[token]
            three = torch.stack(
                [of[:, first], of.gather(1, a[:, None])[:, 0], of.gather(1, b[:, None])[:, 0]]
            )
            i, j, h = three.sort(dim=0).values
            keys, values = (i * self.d_sae + j) * self.d_sae + h, -products[token, a, b]
            sketch.add(keys, values)
            kept.append(keys[values.abs().topk(min(256, len(values))).indices])
        self.candidates = [sketch.largest(torch.cat(kept))] if kept else []

    def compute(self) -> tuple[Int64[Tensor, "triple 3"], Float[Tensor, " triple"], float]:
        """The heaviest triples, their sums by estimate in nats, and how far off these are."""
        sketch = CountSketch(self.table)
        keys = sketch.largest(_all(self.candidates))
        latents = torch.stack(
            [keys // self.d_sae**2, keys // self.d_sae % self.d_sae, keys % self.d_sae], dim=1
        )
        return latents.cpu(), sketch.estimate(keys).cpu(), sketch.error()
