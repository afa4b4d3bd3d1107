"""The k largest numbers of every row."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

_WORTHWHILE = 6  # numbers of a group; with fewer, there are hardly fewer candidates than numbers


def largest(x: Float[Tensor, "row number"], k: int) -> tuple[Float[Tensor, "row k"], Int64[Tensor, "row k"]]:
    """The k largest of every row and where they are, in any order; of equal ones any.

    On a CPU the order is that of `torch.topk`: sums over codes, and so trained weights, depend on it.

    Args:
        x: rows.
        k: at most the numbers of a row.
    """
    return torch.topk(x, k, dim=-1, sorted=False) if x.device.type == "cpu" else largest_by_groups(x, k)


def largest_by_groups(
    x: Float[Tensor, "row number"], k: int
) -> tuple[Float[Tensor, "row k"], Int64[Tensor, "row k"]]:
    """The same, faster: `torch.topk` reads a row several times on a GPU, digit by digit.

    The k largest are in the k groups whose largest are largest, so that one reading leaves as many groups and
    then as many candidates to choose from, both few where groups have √(numbers / k) members. On a CPU, where
    each number costs less the fewer of them are wanted, there are as many groups as members of each.
    """
    size = math.isqrt(x.shape[1] if x.device.type == "cpu" else x.shape[1] // k)
    few = size < _WORTHWHILE or x.shape[1] // size < k
    return torch.topk(x, k, dim=-1, sorted=False) if few else _by_groups(x, k, size)


def _by_groups(x: Tensor, k: int, size: int) -> tuple[Tensor, Tensor]:
    """By groups of numbers that stand `number` apart, so that neighbours are read together."""
    number = x.shape[1] // size
    groups = x[:, : size * number].unflatten(1, (size, number))
    chosen = groups.amax(1).topk(k, dim=-1, sorted=False).indices
    candidates = groups.gather(2, chosen.unsqueeze(1).expand(-1, size, -1)).flatten(1)
    rest = x[:, size * number :]  # in no group
    values, places = torch.cat([candidates, rest], dim=1).topk(k, dim=-1, sorted=False)
    grouped = chosen.gather(1, places % k) + places // k * number
    return values, torch.where(places < size * k, grouped, places + size * (number - k))
