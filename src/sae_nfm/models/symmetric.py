"""Elementary symmetric polynomials e_2 … e_o of the vectors f_i v_i, elementwise, at a cost linear in k."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from sae_nfm.models.codes import Codes
from sae_nfm.models.power_sums import power_sums


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
    sums, alone = power_sums(values.to(embeddings.dtype), indices, large, embeddings, order)
    return _Symmetric.apply(order, *sums, *alone).unflatten(0, leading)


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
    """Where in each token's codes those latents are whose f_i v_i are longest."""
    lengths = values.abs() * embeddings.norm(dim=1)[indices]
    return lengths.topk(number, dim=-1, sorted=False).indices


class _Symmetric(torch.autograd.Function):
    """e_2 … e_o from power sums p_1 … p_o and the vectors that they lack.

    Its gradients are polynomials of the same e_j, ∂e_j/∂z = e_(j−1) without z and ∂e_j/∂p_i = ± e_(j−i) / i:
    a third of the passes over [token, d_embed] that automatic differentiation makes.
    """

    @staticmethod
    def forward(ctx, order: int, *vectors: Tensor) -> Tensor:  # noqa: ANN001
        sums, large = vectors[:order], vectors[order:]
        steps = [from_power_sums(list(sums))]
        for z in large[:-1]:
            below = steps[-1]
            steps.append([below[0] + z, *(torch.addcmul(e, z, lower) for lower, e in pairwise(below))])
        ctx.save_for_backward(*large, *(e for step in steps for e in step))
        ctx.order = order
        out = sums[0].new_empty(len(sums[0]), order - 1, sums[0].shape[1])
        for place, (lower, e) in enumerate(pairwise(steps[-1])):
            torch.addcmul(e, large[-1], lower, out=out[:, place])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN001
        saved = ctx.saved_tensors
        num_large = len(saved) // (ctx.order + 1)
        large, symmetric = saved[:num_large], saved[num_large:]
        steps = [symmetric[start : start + ctx.order] for start in range(0, len(symmetric), ctx.order)]
        grads = [grad.new_zeros(()), *grad.unbind(1)]  # those of e_1 … e_o
        of_large = []
        for z, without in zip(reversed(large), reversed(steps), strict=True):
            of_large.append(_lowered(grads, without))
            grads = [*(torch.addcmul(g, z, above) for g, above in pairwise(grads)), grads[-1]]
        of_sums = [(-1) ** i / (i + 1) * _lowered(grads[i:], steps[0]) for i in range(ctx.order)]
        return None, *of_sums, *reversed(of_large)


def _lowered(grads: list[Tensor], symmetric: Sequence[Tensor]) -> Tensor:
    """Σ_j ∂e_j · e_(j−i), where the first of `grads` is that of e_i; e_0 is 1."""
    total = grads[0]
    for grad, lower in zip(grads[1:], symmetric, strict=False):
        total = torch.addcmul(total, grad, lower)
    return total
