"""Elementary symmetric polynomials e_2 … e_o of the vectors f_i v_i, elementwise, at a cost linear in k."""

from collections.abc import Sequence
from itertools import chain, pairwise

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.amp.autocast_mode import custom_bwd, custom_fwd
from torch.autograd.function import once_differentiable

from sae_nfm.models.codes import Codes
from sae_nfm.models.power_sums import Vectors, embeddings_gradient, power_sums, values_gradient


def elementary_symmetric_sums(
    codes: Codes, embeddings: Float[Tensor, "d_sae d_embed"], order: int
) -> Float[Tensor, "... orders d_embed"]:
    """e_j = Σ over sets of j active latents of Π f_i v_i, for j from 2 to `order`.

    Power sums and Newton's identities need no [token, k, d_embed] tensor, but subtract powers of the largest
    vector, which leaves nothing of e_4 in float32 where one latent is 1000 times the others. So the order − 1
    largest vectors are taken out and put back one by one, e_j ← e_j + z e_(j−1) (the ANOVA recursion, Blondel
    et al. 2016). What Newton's identities then lose is a rounding error of ‖z‖^j for the largest z that is
    left, and j vectors at least as large as that one make up e_j.
    """
    leading, k = codes.values.shape[:-1], codes.values.shape[-1]
    values, indices = (part.reshape(-1, k).contiguous() for part in codes)
    large = _largest(values, indices, embeddings, min(order - 1, k))
    found = _SymmetricSums.apply(values.to(embeddings.dtype), indices, large, embeddings, order)
    return found.unflatten(0, leading)


def from_power_sums(sums: list[Float[Tensor, "..."]]) -> list[Float[Tensor, "..."]]:
    """e_1 … e_o from the power sums p_1 … p_o by Newton's identities, j e_j = Σ_i (−1)^(i−1) e_(j−i) p_i."""
    symmetric = sums[:1]
    for j in range(2, len(sums) + 1):
        total = (-1) ** (j - 1) / j * sums[j - 1]
        for i in range(1, j):
            total.addcmul_(symmetric[j - i - 1], sums[i - 1], value=(-1) ** (i - 1) / j)
        symmetric.append(total)
    return symmetric


@torch.no_grad()
def _largest(
    values: Tensor, indices: Tensor, embeddings: Tensor, number: int
) -> Int64[Tensor, "token number"]:
    """Where in each token's codes those latents are whose f_i v_i are longest.

    They are few, and looked for one by one: `torch.topk` takes two to ten times as long.
    """
    norms = embeddings.norm(dim=1).index_select(0, indices.flatten())  # a quarter of the time of x[indices]
    lengths = values.abs() * norms.view_as(values)
    places = []
    for _ in range(number):
        places.append(lengths.max(dim=-1, keepdim=True).indices)
        lengths.scatter_(1, places[-1], -1)
    return torch.cat(places, dim=1)


class _SymmetricSums(torch.autograd.Function):
    """e_2 … e_o, with gradients that are polynomials of the same e_j: ∂e_j/∂z = e_(j−1) without z.

    That is a third of the passes over [token, d_embed] that automatic differentiation makes.
    """

    @staticmethod
    @custom_fwd(device_type="cuda", cast_inputs=torch.float32)  # the power sums' differences are small
    def forward(
        ctx, values: Tensor, indices: Tensor, large: Tensor, embeddings: Tensor, order: int  # noqa: ANN001
    ) -> Tensor:  # fmt: skip
        vectors = Vectors(values, indices, large, embeddings)
        sums, alone = power_sums(vectors, order)
        steps = [from_power_sums(sums)]
        for z in alone[:-1]:
            below = steps[-1]
            steps.append([below[0] + z, *(torch.addcmul(e, z, lower) for lower, e in pairwise(below))])
        ctx.save_for_backward(*vectors, *alone, *chain.from_iterable(steps))
        ctx.order = order
        out = embeddings.new_empty(len(values), order - 1, embeddings.shape[1])
        for place, (lower, e) in enumerate(pairwise(steps[-1])):
            torch.addcmul(e, alone[-1], lower, out=out[:, place])
        return out

    @staticmethod
    @once_differentiable
    @custom_bwd(device_type="cuda")
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor | None, None]:  # noqa: ANN001
        values, indices, large, embeddings, *saved = ctx.saved_tensors
        num_large = large.shape[1]
        alone, symmetric = saved[:num_large], saved[num_large:]
        steps = [symmetric[start : start + ctx.order] for start in range(0, len(symmetric), ctx.order)]
        given = (Vectors(values, indices, large, embeddings), *_gradients(grad, alone, steps))
        grad_values = values_gradient(*given) if ctx.needs_input_grad[0] else None
        grad_embeddings = embeddings_gradient(*given) if ctx.needs_input_grad[3] else None
        return grad_values, None, None, grad_embeddings, None


def _gradients(
    grad: Float[Tensor, "token orders d_embed"],
    alone: Sequence[Float[Tensor, "token d_embed"]],
    steps: Sequence[Sequence[Float[Tensor, "token d_embed"]]],
) -> tuple[Float[Tensor, "vector token d_embed"], list[Float[Tensor, "token d_embed"]]]:
    """Those of the power sums and of the vectors that they lack.

    Returns:
        h_1 and the vectors' gradients, and h_2 … h_o: h_j = Σ_i ∂e_i e_(i−j), and ∂p_j = (−1)^(j−1) h_j / j.
    """
    first = grad.new_empty(1 + len(alone), *alone[0].shape)
    grads = [grad.new_zeros(()), *grad.unbind(1)]  # those of e_1 … e_o
    for place, z, without in reversed([*zip(first[1:], alone, steps, strict=True)]):
        _lowered(grads, without, place)
        grads = [*(torch.addcmul(g, z, above) for g, above in pairwise(grads)), grads[-1]]
    _lowered(grads, steps[0], first[0])
    between = [_lowered(grads[i:], steps[0], torch.empty_like(first[0])) for i in range(1, len(grads) - 1)]
    return first, [*between, grads[-1].contiguous()]


def _lowered(grads: list[Tensor], symmetric: Sequence[Tensor], out: Tensor) -> Tensor:
    """Σ_i ∂e_i · e_(i−j), where the first of `grads`, which are several, is that of e_j; e_0 is 1."""
    torch.addcmul(grads[0], grads[1], symmetric[0], out=out)
    for grad, lower in zip(grads[2:], symmetric[1:], strict=False):
        out.addcmul_(grad, lower)
    return out
