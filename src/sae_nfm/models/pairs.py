"""Pairs of latents that are active at the same token: found by their numbers, and summed over."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from sae_nfm.models.codes import Codes

_ELEMENTS = 1 << 24
"""Of [token, k, d_embed] that are written out at a time."""


def pair_keys(i: Int64[Tensor, "..."], j: Int64[Tensor, "..."], d_sae: int) -> Int64[Tensor, "..."]:
    """One number a pair, whatever its order."""
    return torch.minimum(i, j) * d_sae + torch.maximum(i, j)


class PairOrder:
    """Pairs of latents in an order, which are found among those of a token.

    Args:
        pairs: latents of each, the first pair first.
        d_sae: number of latents.
    """

    def __init__(self, pairs: Int64[Tensor, "pair 2"], d_sae: int) -> None:
        self.d_sae, self.num_pairs = d_sae, len(pairs)
        self._keys, self._places = torch.sort(pair_keys(pairs[:, 0], pairs[:, 1], d_sae))

    def places(self, codes: Codes) -> Int64[Tensor, "... k k"]:
        """The place of every two of a token's latents, from 0; `num_pairs` where they have none."""
        return self.places_of(pair_keys(codes.indices.unsqueeze(-1), codes.indices.unsqueeze(-2), self.d_sae))

    def places_of(self, keys: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
        """The same of pairs by their numbers, wherever these are."""
        self._keys, self._places = self._keys.to(keys.device), self._places.to(keys.device)
        if not self.num_pairs:
            return torch.zeros_like(keys)
        at = torch.searchsorted(self._keys, keys).clamp_max(self.num_pairs - 1)
        return torch.where(self._keys[at] == keys, self._places[at], self.num_pairs)


def sum_over_pairs(
    codes: Codes, embeddings: Float[Tensor, "d_sae d_embed"], chosen: Bool[Tensor, "token k k"]
) -> Float[Tensor, "token d_embed"]:
    """Σ f_i f_j v_i ∘ v_j over chosen pairs of every token's latents.

    Args:
        codes: of the tokens.
        embeddings: v.
        chosen: symmetric, false on its diagonal.
    """
    k = codes.values.shape[-1]
    size = max(1, _ELEMENTS // (k * max(k, embeddings.shape[1])))
    pieces = zip(codes.values.split(size), codes.indices.split(size), chosen.split(size), strict=True)
    sums = [embeddings.new_zeros(0, embeddings.shape[1])]
    for values, indices, some in pieces:
        z = values.unsqueeze(-1) * embeddings[indices]
        sums.append(0.5 * (z * (some.to(z.dtype) @ z)).sum(-2))
    return torch.cat(sums)
