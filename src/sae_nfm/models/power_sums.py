"""Power sums of the vectors f_i v_i of a token, with some of those vectors kept apart."""

from itertools import accumulate, repeat
from operator import mul

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from torch.amp.autocast_mode import custom_bwd, custom_fwd

from sae_nfm.models.codes import grouped_by_latent, inner_products, summed, transposed_sum
from sae_nfm.models.crossover import crossover


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
    @custom_fwd(device_type="cuda", cast_inputs=torch.float32)  # their differences are small
    def forward(
        ctx, values: Tensor, indices: Tensor, large: Tensor, embeddings: Tensor, order: int  # noqa: ANN001
    ) -> tuple[Tensor, ...]:  # fmt: skip
        ctx.save_for_backward(values, indices, large, embeddings)
        ctx.order = order
        rest = values.scatter(1, large, 0)
        sums = [
            summed(weights, indices, power)
            for weights, power in zip(_powers(rest, order), _powers(embeddings, order), strict=True)
        ]
        alone = values.gather(1, large).unsqueeze(2) * embeddings[indices.gather(1, large)]
        return *sums, *(z.contiguous() for z in alone.unbind(1))

    @staticmethod
    @custom_bwd(device_type="cuda")
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
    many = indices.shape[1] >= crossover(values.device).transposed * len(embeddings)
    gradients = (_written_out if many else _grouped)(
        values, indices, large, len(embeddings), of_sums, of_large
    )
    total = gradients[0]
    for j, power in enumerate(_powers(embeddings, len(of_sums) - 1), 2):
        total.addcmul_(power, gradients[j - 1], value=j)
    return total


def _grouped(
    values: Tensor, indices: Tensor, large: Tensor, d_sae: int, of_sums: list[Tensor], of_large: list[Tensor]
) -> list[Tensor]:
    """Σ_tokens f^j ∂p_j by latent, for every j, from the active latents alone; all share one sort."""
    num_tokens = len(values)
    tokens = torch.arange(num_tokens, device=values.device).unsqueeze(1)
    shifts = num_tokens * torch.arange(1, large.shape[1] + 1, device=values.device)
    rows = tokens.expand_as(indices).scatter(1, large, tokens + shifts)
    entries, starts = grouped_by_latent(indices, d_sae)

    def by_latent(rows: Tensor, weights: Tensor, grads: Tensor) -> Tensor:
        weights = weights.flatten()[entries]
        return F.embedding_bag(rows.flatten()[entries], grads, starts, mode="sum", per_sample_weights=weights)

    first = by_latent(rows, values, torch.cat([of_sums[0], *of_large]))
    higher = zip(_powers(values.scatter(1, large, 0), len(of_sums))[1:], of_sums[1:], strict=True)
    return [first, *(by_latent(tokens.expand_as(indices), weights, grad) for weights, grad in higher)]


def _written_out(
    values: Tensor, indices: Tensor, large: Tensor, d_sae: int, of_sums: list[Tensor], of_large: list[Tensor]
) -> list[Tensor]:
    """The same from all latents, where many are active."""
    powers = _powers(values.scatter(1, large, 0), len(of_sums))
    found = [
        transposed_sum(weights, indices, grad, d_sae) for weights, grad in zip(powers, of_sums, strict=True)
    ]
    for a, grad in enumerate(of_large):
        place = large[:, a : a + 1]
        found[0] += transposed_sum(values.gather(1, place), indices.gather(1, place), grad, d_sae)
    return found


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
