"""Elementary symmetric polynomials e_1 … e_o of the vectors f_i v_i, elementwise, at a cost linear in k."""

import torch
from jaxtyping import Float
from torch import Tensor

from sae_nfm.models.codes import Codes, weighted_sum


def elementary_symmetric_sums(
    codes: Codes, embeddings: Float[Tensor, "d_sae d_embed"], order: int
) -> list[Float[Tensor, "... d_embed"]]:
    """e_j = Σ over sets of j active latents of Π f_i v_i, for j from 1 to `order`.

    Power sums and Newton's identities need no [token, k, d_embed] tensor, but subtract powers of the largest
    vector, which leaves nothing of e_4 in float32 where one latent is 1000 times the others. So the order − 1
    largest vectors are taken out and put back one by one, e_j ← e_j + z e_(j−1) (the ANOVA recursion, Blondel
    et al. 2016). What Newton's identities then lose is a rounding error of ‖z‖^j for the largest z that is
    left, and j vectors at least as large as that one make up e_j.
    """
    large, rest = _split(codes, embeddings.detach().norm(dim=1), order - 1)
    symmetric = from_power_sums(_power_sums(rest, embeddings, order))
    for place in range(large.values.shape[-1]):
        one = Codes(large.values[..., place : place + 1], large.indices[..., place : place + 1])
        z = weighted_sum(one, embeddings)
        lower = [torch.ones_like(z), *symmetric[:-1]]
        symmetric = [torch.addcmul(e, z, below) for e, below in zip(symmetric, lower, strict=True)]
    return symmetric


def from_power_sums(power_sums: list[Float[Tensor, "..."]]) -> list[Float[Tensor, "..."]]:
    """e_1 … e_o from the power sums p_1 … p_o by Newton's identities, j e_j = Σ_i (−1)^(i−1) e_(j−i) p_i."""
    symmetric = [torch.ones_like(power_sums[0])]
    for j in range(1, len(power_sums) + 1):
        total = torch.zeros_like(power_sums[0])
        for i in range(1, j + 1):
            total = torch.addcmul(total, symmetric[j - i], power_sums[i - 1], value=(-1) ** (i - 1))
        symmetric.append(total / j)
    return symmetric[1:]


def _power_sums(codes: Codes, embeddings: Tensor, order: int) -> list[Tensor]:
    """p_j = Σ (f_i v_i)^j for j from 1 to `order`."""
    values, powers = codes.values, embeddings
    sums = [weighted_sum(codes, embeddings)]
    for _ in range(order - 1):
        values, powers = values * codes.values, powers * embeddings
        sums.append(weighted_sum(Codes(values, codes.indices), powers))
    return sums


def _split(codes: Codes, norms: Float[Tensor, " d_sae"], num_large: int) -> tuple[Codes, Codes]:
    """The latents of each token whose f_i v_i are longest, and all with those set to 0."""
    lengths = codes.values.detach().abs() * norms[codes.indices]
    places = lengths.topk(min(num_large, lengths.shape[-1]), dim=-1, sorted=False).indices
    large = Codes(codes.values.gather(-1, places), codes.indices.gather(-1, places))
    return large, Codes(codes.values.scatter(-1, places, 0), codes.indices)
