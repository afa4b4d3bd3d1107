"""What one half of the documents gives the other to verify: named pairs, sets to take out, their controls."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.spatial import KDTree
from torch import Tensor

from sae_nfm.attribution.ablation import Sizes
from sae_nfm.attribution.sums import PairTable
from sae_nfm.models.pairs import PairOrder

SHARES = (0.001, 0.003, 0.01, 0.03, 0.1)
"""Of the pairs that occur, and are counted pair by pair: how many make a set."""
OFTEN = 5
"""Tokens at which a pair occurs, from which on its sum says something."""
ORDERS = ("attribution", "matched", "size", "random")
"""By which pairs are put into sets."""
SINGLES = 200
"""Pairs that are taken out one by one."""
_STRATA = 10
_NEIGHBOURS = 64


class Choice(NamedTuple):
    """What one half of the documents gives the other to verify."""

    named: Int64[Tensor, "named 2"]
    """Pairs that most surely take off the KL, then those that most surely add to it (`PairTable.surely`)."""
    places: Int64[Tensor, " named"]
    """Of these in the table of the half that chose."""
    num_named: int
    """How many of them take off."""
    orders: list[Sizes]
    singles: Int64[Tensor, "single 2"]
    """Pairs of all sizes of Σ A_ij, to be taken out one by one."""
    singles_together: Int64[Tensor, " single"]
    match: dict[str, float]
    """Of the matched pairs: their size and co-activation over those of what they are matched to, in the
    geometric mean."""
    num_pairs: int
    """That occur, and are counted pair by pair."""


def choose(
    table: PairTable, size: Float[Tensor, " pair"], d_sae: int, named: int, harmful: int, seed: int
) -> Choice:
    """Choose on what was summed over one half.

    Args:
        table: sums by pair.
        size: Σ ‖c_ij‖ of each.
        d_sae: number of latents.
        named: how many of the pairs that take most off the KL are named.
        harmful: how many of those that add most to it.
        seed: of what is random.
    """
    pairs = torch.stack([table.i, table.j], dim=1)
    best_first = table.taken_off.argsort(descending=True, stable=True)
    num_best, num_worst = min(named, len(pairs)), min(harmful, max(0, len(pairs) - named))
    best, worst = (table.surely(sign).argsort(descending=True, stable=True) for sign in (1, -1))
    ends = torch.cat([best[:num_best], worst[:num_worst]])
    orders, match = _orders(table, size, pairs, best_first, d_sae, num_best, seed)
    singles = _singles(table, seed)
    counted = int((table.together >= 0).sum())
    return Choice(
        pairs[ends], ends, num_best, orders, pairs[singles], table.together[singles], match, counted
    )


def _orders(
    table: PairTable, size: Tensor, pairs: Tensor, best_first: Tensor, d_sae: int, named: int, seed: int
) -> tuple[list[Sizes], dict[str, float]]:
    """By attribution, by size, at random, and pairs that are matched in size and co-activation."""
    counted = table.together > 0
    best_first = best_first[counted[best_first]]
    num = len(best_first)
    sizes = sorted({named, *(max(1, round(share * num)) for share in SHARES)} & set(range(1, num + 1)))
    largest = sizes[-1] if sizes else 0
    generator = torch.Generator().manual_seed(seed)
    occurring = counted.nonzero()[:, 0]
    by_size = occurring[size[occurring].argsort(descending=True, stable=True)]
    at_random = occurring[torch.randperm(num, generator=generator)]
    features = torch.stack([size.clamp_min(1e-12).log(), table.together.clamp_min(1).double().log()], dim=1)
    matched = _partners(features.numpy(), best_first[:largest].numpy(), best_first[largest:].numpy())
    found = dict(zip(ORDERS, (best_first, torch.from_numpy(matched), by_size, at_random), strict=True))
    of = best_first[: len(matched)]
    difference = (features[torch.from_numpy(matched)] - features[of]).sum(0) / max(1, len(matched))
    size_ratio, together_ratio = difference.exp().tolist()
    match = {"size": size_ratio, "together": together_ratio}
    orders = [
        Sizes(name, PairOrder(pairs[order[:largest]], d_sae), [n for n in sizes if n <= len(order)])
        for name, order in found.items()
    ]
    return orders, match


def _partners(
    features: Float[np.ndarray, "pair feature"], chosen: Int64[np.ndarray, " chosen"],
    others: Int64[np.ndarray, " other"],
) -> Int64[np.ndarray, " matched"]:  # fmt: skip
    """For each of the chosen in turn the nearest of the others that no one has taken yet.

    As many as there are others; where all near ones are taken, the nearest in the first feature.
    """
    if not len(others) or not len(chosen):
        return np.zeros(0, np.int64)
    scale = features[others].std(0).clip(1e-9)
    tree = KDTree(features[others] / scale)
    near = tree.query(features[chosen] / scale, k=min(_NEIGHBOURS, len(others)))[1].reshape(len(chosen), -1)
    spare = iter(np.argsort(-features[others][:, 0], kind="stable").tolist())
    taken: set[int] = set()
    partners = []
    for candidates in near[: len(others)]:
        free = next((place for place in candidates.tolist() if place not in taken), None)
        while free is None or free in taken:
            free = next(spare)
        taken.add(free)
        partners.append(free)
    return others[np.array(partners)]


def _singles(table: PairTable, seed: int) -> Int64[Tensor, " single"]:
    """As many pairs of every tenth of the sizes of Σ A_ij, among those that occur more than a few times."""
    often = (table.together >= OFTEN).nonzero()[:, 0]
    by_size = often[table.taken_off[often].abs().argsort(stable=True)]
    generator = torch.Generator().manual_seed(seed)
    strata = by_size.tensor_split(_STRATA)
    drawn = [s[torch.randperm(len(s), generator=generator)[: SINGLES // _STRATA]] for s in strata]
    return torch.cat(drawn)
