"""The active latents of a training batch one after the other, where tokens have any number of them.

Nothing is padded: decoder and backward pass cost as many products as there are active latents.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from sae_nfm.models.codes import grouped_by_latent, inner_products_of_bags


class Entries(NamedTuple):
    """Active latents in the order of their tokens, and of the latents within a token."""

    values: Float[Tensor, " entry"]
    tokens: Int64[Tensor, " entry"]
    latents: Int64[Tensor, " entry"]


def encode_largest(
    x: Float[Tensor, "token d_in"],
    weight: Float[Tensor, "d_sae d_in"],
    bias: Float[Tensor, " d_sae"],
    number: int,
    guess: float | Float[Tensor, ""] = 0.0,
) -> Entries:
    """The largest pre-activations x·weightᵀ + bias of a whole batch that are above 0.

    As in `encode_topk`, the backward pass touches only what was selected.

    Args:
        x: activations.
        weight: one row per latent.
        bias: of the latents.
        number: how many, at most.
        guess: a value that the least of them is thought to be above. It changes the time that this takes
            and nothing else: only what is above needs sorting.
    """
    with torch.no_grad():
        pre = torch.addmm(bias, x, weight.t()).flatten()
        positions = _largest(pre, number, guess)
        values = pre[positions].to(weight.dtype)
    tokens, latents = positions // len(bias), positions % len(bias)
    return Entries(_Selected.apply(x, weight, bias, values, tokens, latents), tokens, latents)


def sums(
    entries: Entries, bags: Int64[Tensor, " entry"], num_bags: int, weight: Float[Tensor, "latent d_out"]
) -> Float[Tensor, "bag d_out"]:
    """Σ value · weight[latent] over the entries of each bag, differentiable in the values and the weight.

    Args:
        entries: what is summed.
        bags: of the entries, in ascending order: their tokens, or a finer division.
        num_bags: how many there are; some may be empty.
        weight: one row per latent.
    """
    return _BagSums.apply(entries.values, entries.latents, bags, num_bags, weight)


def _largest(
    flat: Float[Tensor, " any"], number: int, guess: float | Float[Tensor, ""]
) -> Int64[Tensor, " found"]:
    """Where the largest positive entries are, in ascending order."""
    candidates = (flat > guess).nonzero().squeeze(1)
    if len(candidates) < number or guess < 0:
        candidates = (flat > 0).nonzero().squeeze(1)
    chosen = flat[candidates].topk(min(number, len(candidates)), sorted=False).indices
    return candidates[chosen.sort().values]


def _starts(bags: Int64[Tensor, " entry"], num_bags: int) -> Int64[Tensor, " bag"]:
    return torch.searchsorted(bags, torch.arange(num_bags, device=bags.device))


def _sums_by_latent(
    values: Float[Tensor, " entry"],
    latents: Int64[Tensor, " entry"],
    bags: Int64[Tensor, " entry"],
    rows: Float[Tensor, "bag d_out"],
    num_latents: int,
) -> Float[Tensor, "latent d_out"]:
    """Σ over the entries of a latent, of value · row, in one order."""
    order, starts = grouped_by_latent(latents, num_latents)
    return F.embedding_bag(bags[order], rows, starts, mode="sum", per_sample_weights=values[order])


class _Selected(torch.autograd.Function):
    """Pre-activations that were selected, as functions of what they were made of."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, values: Tensor, *where: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, *where)
        return values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, tokens, latents = ctx.saved_tensors
        grad_x = None
        if ctx.needs_input_grad[0]:
            starts = _starts(tokens, len(x))
            grad_x = F.embedding_bag(latents, weight, starts, mode="sum", per_sample_weights=grad)
        grad_weight = _sums_by_latent(grad, latents, tokens, x, len(weight))
        grad_bias = grad.new_zeros(len(weight)).index_add_(0, latents, grad)
        return grad_x, grad_weight, grad_bias, None, None, None


class _BagSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, latents: Tensor, bags: Tensor, num_bags: int, weight: Tensor
    ) -> Tensor:
        starts = _starts(bags, num_bags)
        ctx.save_for_backward(values, latents, bags, starts, weight)
        return F.embedding_bag(latents, weight, starts, mode="sum", per_sample_weights=values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, None, Tensor | None]:
        values, latents, bags, starts, weight = ctx.saved_tensors
        grad, grad_values, grad_weight = grad.contiguous(), None, None
        if ctx.needs_input_grad[0]:
            grad_values = inner_products_of_bags(grad, bags, starts, latents, weight)
        if ctx.needs_input_grad[4]:
            grad_weight = _sums_by_latent(values, latents, bags, grad, len(weight))
        return grad_values, None, None, None, grad_weight
