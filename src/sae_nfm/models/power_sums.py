"""Power sums of the vectors f_i v_i of a token, with some of those vectors kept apart, and their gradients.

No [token, k, d_embed] tensor is made: every sum is one weighted sum of rows of a power of the embeddings.
"""

from itertools import accumulate, repeat
from operator import mul

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from sae_nfm.models.codes import grouped_by_latent, inner_products, summed, transposed_sum
from sae_nfm.models.crossover import crossover


def power_sums(
    values: Float[Tensor, "token k"],
    indices: Int64[Tensor, "token k"],
    large: Int64[Tensor, "token number"],
    embeddings: Float[Tensor, "d_sae d_embed"],
    order: int,
) -> tuple[list[Float[Tensor, "token d_embed"]], list[Float[Tensor, "token d_embed"]]]:
    """p_j = Σ (f_i v_i)^j, elementwise, j = 1 … `order`, without the latents at `large`; and those alone."""
    rest = values.scatter(1, large, 0)
    sums = [
        summed(weights, indices, power)
        for weights, power in zip(_powers(rest, order), _powers(embeddings, order), strict=True)
    ]
    alone = [
        values.gather(1, a) * embeddings.index_select(0, indices.gather(1, a).squeeze(1))
        for a in large.split(1, dim=1)
    ]
    return sums, alone


def embeddings_gradient(
    values: Float[Tensor, "token k"],
    indices: Int64[Tensor, "token k"],
    large: Int64[Tensor, "token number"],
    embeddings: Float[Tensor, "d_sae d_embed"],
    first: Float[Tensor, "vector token d_embed"],
    higher: list[Float[Tensor, "token d_embed"]],
) -> Float[Tensor, "d_sae d_embed"]:
    """Σ_j (−1)^(j−1) v^(j−1) Σ_tokens f^j h_j; that of a large latent stands in place of its part in h_1.

    Args:
        values: of the codes.
        indices: of the codes.
        large: where the large ones are.
        embeddings: v.
        first: h_1 and the gradients of the large vectors.
        higher: h_2 and so on, where ∂p_j = (−1)^(j−1) h_j / j.
    """
    many = indices.shape[1] >= crossover(values.device).transposed * len(embeddings)
    gradients = (_written_out if many else _grouped)(values, indices, large, len(embeddings), first, higher)
    total = gradients[0]
    for j, power in enumerate(_powers(embeddings, len(higher)), 1):
        total.addcmul_(power, gradients[j], value=(-1) ** j)
    return total


def values_gradient(
    values: Float[Tensor, "token k"],
    indices: Int64[Tensor, "token k"],
    large: Int64[Tensor, "token number"],
    embeddings: Float[Tensor, "d_sae d_embed"],
    first: Float[Tensor, "vector token d_embed"],
    higher: list[Float[Tensor, "token d_embed"]],
) -> Float[Tensor, "token k"]:
    """Σ_j (−1)^(j−1) f^(j−1) (v^j · h_j), and v · ∂z of a large latent; arguments as above."""
    total = inner_products(first[0], indices, embeddings)
    lower, powers = _powers(values, len(higher)), _powers(embeddings, len(higher) + 1)
    for j, grad in enumerate(higher, 1):
        total.addcmul_(lower[j - 1], inner_products(grad, indices, powers[j]), value=(-1) ** j)
    alone = [
        inner_products(grad, indices.gather(1, a), embeddings)
        for a, grad in zip(large.split(1, dim=1), first[1:], strict=True)
    ]
    return total.scatter(1, large, torch.cat(alone, dim=1))


def _powers(x: Tensor, order: int) -> list[Tensor]:
    return list(accumulate(repeat(x, order), mul))


def _grouped(
    values: Tensor, indices: Tensor, large: Tensor, d_sae: int, first: Tensor, higher: list[Tensor]
) -> list[Tensor]:
    """Σ_tokens f^j h_j by latent, for every j, from the active latents alone; all share one sort."""
    num_tokens = len(values)
    entries, starts = grouped_by_latent(indices, d_sae)

    def ordered(x: Tensor) -> Tensor:
        return x.flatten().index_select(0, entries)  # a quarter of the time of x[entries]

    def by_latent(rows: Tensor, weights: Tensor, grads: Tensor) -> Tensor:
        return F.embedding_bag(rows, grads, starts, mode="sum", per_sample_weights=weights)

    tokens = torch.arange(num_tokens, device=values.device).unsqueeze(1)
    shifts = num_tokens * torch.arange(1, len(first), device=values.device)
    rows = tokens.expand_as(indices).scatter(1, large, tokens + shifts)
    found = [by_latent(ordered(rows), ordered(values), first.flatten(0, 1))]
    rows, rest = ordered(tokens.expand_as(indices)), ordered(values.scatter(1, large, 0))
    powers = _powers(rest, len(higher) + 1)[1:]
    return [*found, *(by_latent(rows, weights, grad) for weights, grad in zip(powers, higher, strict=True))]


def _written_out(
    values: Tensor, indices: Tensor, large: Tensor, d_sae: int, first: Tensor, higher: list[Tensor]
) -> list[Tensor]:
    """The same from all latents, where many are active."""
    powers = _powers(values.scatter(1, large, 0), len(higher) + 1)
    found = [
        transposed_sum(weights, indices, grad, d_sae)
        for weights, grad in zip(powers, [first[0], *higher], strict=True)
    ]
    for a, grad in zip(large.split(1, dim=1), first[1:], strict=True):
        found[0] += transposed_sum(values.gather(1, a), indices.gather(1, a), grad, d_sae)
    return found
