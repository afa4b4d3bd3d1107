"""Elementary symmetric polynomials e_1 … e_o of the vectors f_i v_i, elementwise, at a cost linear in k."""

from itertools import accumulate, pairwise, repeat
from operator import mul

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from sae_nfm.models.codes import Codes, grouped_by_latent, inner_products


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
    leading, k = codes.values.shape[:-1], codes.values.shape[-1]
    values, indices = (part.reshape(-1, k).contiguous() for part in codes)
    large = _largest(values, indices, embeddings, min(order - 1, k))
    sums = _PowerSums.apply(values.to(embeddings.dtype), indices, large, embeddings, order)
    symmetric = from_power_sums(list(sums[:order]))
    for z in sums[order:]:
        symmetric = [
            symmetric[0] + z,
            *(torch.addcmul(e, z, below) for below, e in pairwise(symmetric)),
        ]
    return [e.unflatten(0, leading) for e in symmetric]


def from_power_sums(power_sums: list[Float[Tensor, "..."]]) -> list[Float[Tensor, "..."]]:
    """e_1 … e_o from the power sums p_1 … p_o by Newton's identities, j e_j = Σ_i (−1)^(i−1) e_(j−i) p_i."""
    symmetric = power_sums[:1]
    for j in range(2, len(power_sums) + 1):
        total = (-1) ** (j - 1) / j * power_sums[j - 1]
        for i in range(1, j):
            total = torch.addcmul(total, symmetric[j - i - 1], power_sums[i - 1], value=(-1) ** (i - 1) / j)
        symmetric.append(total)
    return symmetric


@torch.no_grad()
def _largest(
    values: Tensor, indices: Tensor, embeddings: Tensor, number: int
) -> Int64[Tensor, "token number"]:
    """Where in each token's codes those latents are whose f_i v_i are longest."""
    lengths = values.abs() * embeddings.norm(dim=1)[indices]
    return lengths.topk(number, dim=-1, sorted=False).indices


class _PowerSums(torch.autograd.Function):
    """p_j = Σ (f_i v_i)^j, j from 1 to `order`, without the latents at `large`; then f_i v_i of those.

    One function, so that the gradients of all of them share one sort of the latents.
    """

    @staticmethod
    def forward(
        ctx, values: Tensor, indices: Tensor, large: Tensor, embeddings: Tensor, order: int  # noqa: ANN001
    ) -> tuple[Tensor, ...]:  # fmt: skip
        ctx.save_for_backward(values, indices, large, embeddings)
        ctx.order = order
        rest = values.scatter(1, large, 0)
        sums = [
            F.embedding_bag(indices, power, mode="sum", per_sample_weights=weights)
            for weights, power in zip(_powers(rest, order), _powers(embeddings, order), strict=True)
        ]
        alone = values.gather(1, large).unsqueeze(2) * embeddings[indices.gather(1, large)]
        return *sums, *(z.contiguous() for z in alone.unbind(1))

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, None, None, Tensor | None, None]:  # noqa: ANN001
        values, indices, large, embeddings = ctx.saved_tensors
        of_sums = [grad.contiguous() for grad in grads[: ctx.order]]
        of_large = [grad.contiguous() for grad in grads[ctx.order :]]
        arguments = (values, indices, large, embeddings, of_sums, of_large)
        grad_values = _values_gradient(*arguments) if ctx.needs_input_grad[0] else None
        grad_embeddings = _embeddings_gradient(*arguments) if ctx.needs_input_grad[3] else None
        return grad_values, None, None, grad_embeddings, None


def _powers(x: Tensor, order: int) -> list[Tensor]:
    return list(accumulate(repeat(x, order), mul))


def _embeddings_gradient(
    values: Tensor, indices: Tensor, large: Tensor, embeddings: Tensor,
    of_sums: list[Tensor], of_large: list[Tensor],
) -> Tensor:  # fmt: skip
    """Σ_j j v^(j−1) Σ_tokens f^j ∂p_j; that of a large latent stands in place of its part in ∂p_1."""
    num_tokens = len(values)
    tokens = torch.arange(num_tokens, device=values.device).unsqueeze(1)
    shifts = num_tokens * torch.arange(1, large.shape[1] + 1, device=values.device)
    rows = tokens.expand_as(indices).scatter(1, large, tokens + shifts)
    entries, starts = grouped_by_latent(indices, len(embeddings))

    def summed(rows: Tensor, weights: Tensor, grads: Tensor) -> Tensor:
        weights = weights.flatten()[entries]
        return F.embedding_bag(rows.flatten()[entries], grads, starts, mode="sum", per_sample_weights=weights)

    total = summed(rows, values, torch.cat([of_sums[0], *of_large]))
    weights, lower = _powers(values.scatter(1, large, 0), len(of_sums)), _powers(embeddings, len(of_sums))
    for j in range(2, len(of_sums) + 1):
        grads = summed(tokens.expand_as(indices), weights[j - 1], of_sums[j - 1])
        total.addcmul_(lower[j - 2], grads, value=j)
    return total


def _values_gradient(
    values: Tensor, indices: Tensor, large: Tensor, embeddings: Tensor,
    of_sums: list[Tensor], of_large: list[Tensor],
) -> Tensor:  # fmt: skip
    """Σ_j j f^(j−1) (v^j · ∂p_j), and v · ∂z of a large latent."""
    lower = [torch.ones_like(values), *_powers(values, len(of_sums))]
    powers = _powers(embeddings, len(of_sums))
    total = sum(
        j * lower[j - 1] * inner_products(of_sums[j - 1], indices, powers[j - 1])
        for j in range(1, len(of_sums) + 1)
    )
    assert isinstance(total, Tensor)
    if not of_large:
        return total
    alone = [
        inner_products(grad, indices.gather(1, large[:, a : a + 1]), embeddings)
        for a, grad in enumerate(of_large)
    ]
    return total.scatter(1, large, torch.cat(alone, dim=1))
