"""The active latents of a training batch one after the other, where tokens have any number of them.

Nothing is padded: decoder and backward pass cost as many products as there are entries.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from sae_nfm.models.codes import Codes, grouped_by_latent, inner_products_of_bags


class Entries(NamedTuple):
    """Latents of tokens, in the order of the tokens and within a token of the latents."""

    values: Float[Tensor, " entry"]
    tokens: Int64[Tensor, " entry"]
    latents: Int64[Tensor, " entry"]
    order: Int64[Tensor, " entry"]
    """The entries in the order of their latents."""
    starts: Int64[Tensor, " d_sae"]
    """Where each latent's begin in that order."""

    def having(self, values: Float[Tensor, " entry"]) -> "Entries":
        """The same latents with other values."""
        return self._replace(values=values)

    def codes(self, num_tokens: int) -> Codes:
        """The same padded to the most active token's, and to one latent at least."""
        counts = self.tokens.bincount(minlength=num_tokens)
        width = int(F.pad(counts, (0, 1), value=1).max())
        places = (
            torch.arange(len(self.tokens), device=counts.device) - (counts.cumsum(0) - counts)[self.tokens]
        )
        at, empty = (self.tokens, places), self.values.new_zeros(num_tokens, width)
        # Padding points to one latent after the other: a sum over the entries of a latent stays short.
        indices = torch.arange(width, device=counts.device) % len(self.starts)
        indices = indices.repeat(num_tokens, 1).index_put_(at, self.latents)
        return Codes(empty.index_put(at, self.values), indices)

    def counts(self) -> Int64[Tensor, " d_sae"]:
        """On how many tokens each latent is above 0."""
        return self.latents[self.values > 0].bincount(minlength=len(self.starts))


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
        pre = torch.addmm(bias, x, weight.t())
        positions = _largest(pre.flatten(), number, guess)
    return _selected(x, weight, bias, pre, positions)


def encode_above(
    x: Float[Tensor, "token d_in"],
    weight: Float[Tensor, "d_sae d_in"],
    bias: Float[Tensor, " d_sae"],
    cut: float | Float[Tensor, " d_sae"],
) -> Entries:
    """The pre-activations above a value, which may be each latent's own; otherwise as `encode_largest`."""
    with torch.no_grad():
        pre = torch.addmm(bias, x, weight.t())
        positions = (pre > cut).flatten().nonzero().squeeze(1)
    return _selected(x, weight, bias, pre, positions)


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
    return _BagSums.apply(*entries, bags, num_bags, weight)


def totals(
    values: Float[Tensor, " entry"], order: Int64[Tensor, " entry"], starts: Int64[Tensor, " d_sae"]
) -> Float[Tensor, " d_sae"]:
    """Σ over the entries of each latent, added up in one order."""
    return F.embedding_bag(order, values.unsqueeze(1), starts, mode="sum").squeeze(1)


def _largest(
    flat: Float[Tensor, " any"], number: int, guess: float | Float[Tensor, ""]
) -> Int64[Tensor, " found"]:
    """Where the largest positive entries are, in ascending order."""
    candidates = (flat > guess).nonzero().squeeze(1)
    if len(candidates) < number or guess < 0:
        candidates = (flat > 0).nonzero().squeeze(1)
    chosen = flat[candidates].topk(min(number, len(candidates)), sorted=False).indices
    return candidates[chosen.sort().values]


def _selected(
    x: Float[Tensor, "token d_in"],
    weight: Float[Tensor, "d_sae d_in"],
    bias: Float[Tensor, " d_sae"],
    pre: Float[Tensor, "token d_sae"],
    positions: Int64[Tensor, " entry"],
) -> Entries:
    tokens, latents = positions // len(bias), positions % len(bias)
    where = (tokens, latents, *grouped_by_latent(latents, len(bias)))
    values = pre.flatten()[positions].to(weight.dtype)
    return Entries(_Selected.apply(x, weight, bias, values, *where), *where)


def _bag_starts(bags: Int64[Tensor, " entry"], num_bags: int) -> Int64[Tensor, " bag"]:
    return torch.searchsorted(bags, torch.arange(num_bags, device=bags.device))


class _Selected(torch.autograd.Function):
    """Pre-activations that were selected, as functions of what they were made of."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, values: Tensor, *where: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, *where)
        return values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, tokens, latents, order, starts = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            of_tokens = _bag_starts(tokens, len(x))
            grad_x = F.embedding_bag(latents, weight, of_tokens, mode="sum", per_sample_weights=grad)
        if ctx.needs_input_grad[1]:
            parts = {"mode": "sum", "per_sample_weights": grad[order]}
            grad_weight = F.embedding_bag(tokens[order], x, starts, **parts)
        if ctx.needs_input_grad[2]:
            grad_bias = totals(grad, order, starts)
        return grad_x, grad_weight, grad_bias, *[None] * 5


class _BagSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        tokens: Tensor,
        latents: Tensor,
        order: Tensor,
        starts: Tensor,
        bags: Tensor,
        num_bags: int,
        weight: Tensor,
    ) -> Tensor:
        of_bags = _bag_starts(bags, num_bags)
        ctx.save_for_backward(values, latents, order, starts, bags, of_bags, weight)
        return F.embedding_bag(latents, weight, of_bags, mode="sum", per_sample_weights=values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, latents, order, starts, bags, of_bags, weight = ctx.saved_tensors
        grad, grad_values, grad_weight = grad.contiguous(), None, None
        if ctx.needs_input_grad[0]:
            grad_values = inner_products_of_bags(grad, bags, of_bags, latents, weight)
        if ctx.needs_input_grad[7]:
            parts = {"mode": "sum", "per_sample_weights": values[order]}
            grad_weight = F.embedding_bag(bags[order], grad, starts, **parts)
        return grad_values, *[None] * 6, grad_weight
