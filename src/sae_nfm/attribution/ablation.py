"""What becomes of the KL when pairs are taken out of the interactions, or nothing else is left of them."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sae_nfm.attribution.attributed import Attributed
from sae_nfm.attribution.contexts import chance
from sae_nfm.lm.passage import Reached
from sae_nfm.measures.sums import Float64Sums
from sae_nfm.models.codes import Codes
from sae_nfm.models.pairs import PairOrder
from sae_nfm.training.through_model import SiteBatch, ThroughModel

ROWS = 16
"""Blocks, each without a pair, that go through the suffix at once."""
BLOCKS_EACH = 16
"""That a single pair is taken out of, on average."""


class Sizes(NamedTuple):
    """An order of pairs, and how many of the first ones make a set."""

    name: str
    order: PairOrder
    sizes: list[int]


class SetAblations(Float64Sums):
    """Σ KL by document without the first n pairs of an order, and with nothing but them.

    The constant of the interactions stays. What is left without pairs has the sets of more latents still;
    nothing but pairs is without these as well.

    Args:
        orders: of which sets are made.
        num_documents: of the split.
    """

    without: Tensor
    only: Tensor

    def __init__(self, orders: list[Sizes], num_documents: int) -> None:
        super().__init__()
        self.orders = orders
        shape = (sum(len(each.sizes) for each in orders), num_documents)
        self.add_sums(without=shape, only=shape)

    def update(self, found: Attributed, through: ThroughModel) -> None:
        """Add a batch of blocks."""
        row, codes = 0, found.parts.codes
        for each in self.orders:
            places = each.order.places(codes)
            for size in each.sizes:
                chosen = places < size
                left = found.interactions.without(codes, found.pooled, chosen)
                for sums, pooled in ((self.without, left), (self.only, found.pooled - left)):
                    kl = _kl(found, pooled, through)
                    sums[row].index_add_(0, found.documents, kl.double())
                row += 1

    def compute(self) -> dict[str, dict[str, Tensor]]:
        """By order: `without` and `only`, [size, document]."""
        lengths = [len(each.sizes) for each in self.orders]
        split = {name: getattr(self, name).cpu().split(lengths) for name in ("without", "only")}
        return {
            each.name: {name: sums[place] for name, sums in split.items()}
            for place, each in enumerate(self.orders)
        }


class SingleAblations(Float64Sums):
    """What single pairs take off the KL by ablation, and by attribution, in the same blocks.

    A pair is taken out of all of the interactions (`left_out`), and given to the linear part alone (`given`).
    Where the KL is quadratic along the path, attribution is the mean of both.

    Args:
        order: the pairs.
        together: tokens of the other half at which each occurs: pairs that occur in many blocks are taken
            out of a random few of these.
    """

    left_out: Tensor
    given: Tensor
    attributed: Tensor
    blocks: Tensor

    def __init__(self, order: PairOrder, together: Int64[Tensor, " pair"]) -> None:
        super().__init__()
        self.order, self.share = order, (BLOCKS_EACH / together.clamp_min(1)).tolist()
        num = order.num_pairs
        self.add_sums(left_out=num, given=num, attributed=num, blocks=num)

    def update(self, found: Attributed, through: ThroughModel) -> None:
        """Add a batch of blocks."""
        places, pairs = found.pairs.among(self.order)
        token, num = pairs.token, self.order.num_pairs
        block_of, num_blocks = found.token_block, len(found.numbers)
        cell = places * num_blocks + block_of[token]
        sums = torch.zeros(num * num_blocks, dtype=torch.float64, device=cell.device)
        sums.index_add_(0, cell, pairs.taken_off.double())
        numbers = found.numbers.tolist()
        drawn = [
            (pair, block)
            for pair, block in ((int(c) // num_blocks, int(c) % num_blocks) for c in cell.unique())
            if chance(numbers[block], pair) < self.share[pair]
        ]
        ends = {}
        for name in ("sae_linear", "sae_nfm"):
            ends[name] = torch.zeros(num_blocks, dtype=torch.float64, device=cell.device)
            ends[name].index_add_(0, block_of, found.kl[name].double())
        for start in range(0, len(drawn), ROWS):
            rows = drawn[start : start + ROWS]
            without, alone = self._ablated(found, rows, places, token, through)
            for (pair, block), left, one in zip(rows, without, alone, strict=True):
                self.left_out[pair] += left - ends["sae_nfm"][block]
                self.given[pair] += ends["sae_linear"][block] - one
                self.attributed[pair] += sums[pair * num_blocks + block]
                self.blocks[pair] += 1

    def _ablated(
        self, found: Attributed, rows: list[tuple[int, int]], places: Tensor, token: Tensor,
        through: ThroughModel,
    ) -> tuple[list[Tensor], list[Tensor]]:  # fmt: skip
        """Σ KL of blocks: each without its pair, and with nothing but its pair beside the linear part."""
        blocks, without, alone = [block for _, block in rows], [], []
        inside = [(found.token_block == block).nonzero()[:, 0] for block in blocks]
        tokens = torch.cat(inside)
        units = found.parts.explained.units.at(tokens)
        start, constant = found.path.start[tokens], found.path.constant[tokens]
        for (pair, _), at in zip(rows, inside, strict=True):
            here = token[(places == pair) & (token >= at[0]) & (token <= at[-1])]
            codes = Codes(found.parts.codes.values[here], found.parts.codes.indices[here])
            pooled = torch.zeros_like(found.pooled[at])
            pooled[here - at[0]] = found.interactions.only(codes, self.order.places(codes) == pair)
            without.append(found.pooled[at] - pooled)
            alone.append(pooled)
        left = start + found.interactions.part(torch.cat(without), units)
        given = start + found.interactions.part(torch.cat(alone), units) - constant
        batch = SiteBatch(*(part[blocks] for part in found.batch))
        clean = Reached(found.clean.final[blocks], found.clean.streams[:, blocks])
        kl = [through.by_token(point, batch, clean, with_gradient=False)[0] for point in (left, given)]
        lengths = [len(at) for at in inside]
        summed = [[part.double().sum() for part in each.split(lengths)] for each in kl]
        return summed[0], summed[1]


def _kl(found: Attributed, pooled: Float[Tensor, "token pooled"], through: ThroughModel) -> Tensor:
    units = found.parts.explained.units
    replacement = found.path.start + found.interactions.part(pooled, units)
    return through.by_token(replacement, found.batch, found.clean, with_gradient=False)[0]
