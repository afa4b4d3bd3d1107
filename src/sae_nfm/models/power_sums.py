"""Power sums of the vectors f_i v_i of a token, with some of those vectors kept apart."""

from itertools import accumulate, repeat
from operator import mul

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from sae_nfm.models.codes import grouped_by_latent, inner_products


def power_sums(
    values: Float[Tensor, "token k"],
    indices: Int64[Tensor, "token k"],
    large: Int64[Tensor, "token number"],
    embeddings: Float[Tensor, "d_sae d_embed"],
    order: int,
) -> tuple[list[Float[Tensor, "token d_embed"]], list[Float[Tensor, "token d_embed"]]]:
    """p_j = Σ (f_i v_i)^j, elementwise, j from 1 to `order`, without the latents at `large`; and those alone.

    No [token, k, d_embed] tensor is made: every p_j is one weighted sum of rows of v^j.
    """
    parts = _PowerSums.apply(values, indices, large, embeddings, order)
    return list(parts[:order]), list(parts[order:])


class _PowerSums(torch.autograd.Function):
    """One function, so that the gradients of all its results share one sort of the latents."""

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
