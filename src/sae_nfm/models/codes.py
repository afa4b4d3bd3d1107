"""Sparse codes and the one sum that everything sparse is made of: Σ_j values_j · weight[indices_j].

The SAE's decoder, the NFM's linear part and its pooled embeddings are all this sum over the k active latents,
so none of them costs d_sae per token, unless so many latents are active that writing all of them out is
faster (`crossover`).
"""

from collections.abc import Callable
from functools import reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from torch.amp.autocast_mode import custom_bwd, custom_fwd

from sae_nfm.models.crossover import crossover
from sae_nfm.models.largest import largest

CHUNK = 1 << 24
"""Latents, of all tokens of a chunk together, that are written out at a time."""
DENSE = {"cpu": 1 << 26, "cuda": 1 << 28}
"""Pre-activations that are alive at once, at most, where no gradient passes through all of them."""


class Codes(NamedTuple):
    """The active latents of each token; an entry whose value is 0 is inactive."""

    values: Float[Tensor, "... k"]
    indices: Int64[Tensor, "... k"]

    def strongest(self, k: int) -> "Codes":
        """The k most active latents of every token, or all where there are fewer."""
        values, places = self.values.topk(min(k, self.values.shape[-1]), dim=-1)
        return Codes(values, self.indices.gather(-1, places))

    def dense(self, d_sae: int) -> Float[Tensor, "... d_sae"]:
        """The same codes with every latent written out."""
        out = self.values.new_zeros(*self.values.shape[:-1], d_sae)
        return out.scatter_add(-1, self.indices, self.values)


def encode_dense(
    latents: Callable[[Float[Tensor, "token d_in"]], Float[Tensor, "token d_sae"]],
    x: Float[Tensor, "... d_in"],
    d_sae: int,
) -> Codes:
    """The codes of latents that can only be written out, a chunk of tokens at a time.

    Args:
        latents: of every token, by the token alone; none is negative.
        x: what they are of.
        d_sae: number of latents.
    """
    chunks = x.flatten(0, -2).split(max(1, CHUNK // d_sae))
    return _joined([active_latents(latents(chunk)) for chunk in chunks], x.shape[:-1])


def active_latents(latents: Float[Tensor, "token d_sae"]) -> Codes:
    """The latents above 0, padded to the most active token's and to one at least; differentiable in them."""
    active = latents > 0
    counts = active.sum(1)
    width = int(F.pad(counts, (0, 1), value=1).max())
    tokens, positions = active.nonzero(as_tuple=True)
    places = torch.arange(len(tokens), device=tokens.device) - (counts.cumsum(0) - counts)[tokens]
    # Padding points to one latent after the other: a sum over the entries of a latent stays short.
    indices = torch.arange(width, device=tokens.device).repeat(len(latents), 1)
    indices[tokens, places] = positions
    padding = torch.arange(width, device=tokens.device) >= counts.unsqueeze(1)
    return Codes(latents.gather(1, indices).masked_fill(padding, 0), indices)


def _joined(chunks: list[Codes], shape: torch.Size) -> Codes:
    """Chunks of tokens as one, in the shape of the tokens."""
    width = max(chunk.values.shape[1] for chunk in chunks)
    padded = [[F.pad(part, (0, width - part.shape[1])) for part in chunk] for chunk in chunks]
    return Codes(*(torch.cat(parts).unflatten(0, shape) for parts in zip(*padded, strict=True)))


def weighted_sum(codes: Codes, weight: Float[Tensor, "d_sae d_out"]) -> Float[Tensor, "... d_out"]:
    """Σ_j values_j · weight[indices_j] for every token, differentiable in the values and the weight."""
    shape = codes.values.shape
    values, indices = (part.reshape(-1, shape[-1]).contiguous() for part in codes)
    return _WeightedSum.apply(values.to(weight.dtype), indices, weight).unflatten(0, shape[:-1])


def encode_topk(
    x: Float[Tensor, "token d_in"], weight: Float[Tensor, "d_sae d_in"], bias: Float[Tensor, " d_sae"], k: int
) -> Codes:
    """The k largest pre-activations x·weightᵀ + bias of every token, rectified.

    The backward pass touches only the k selected latents of a token, where autograd through the dense
    pre-activations would multiply by all d_sae.
    """
    return Codes(*_EncodeTopK.apply(x, weight, bias, k))


def summed(
    values: Float[Tensor, "token k"], indices: Int64[Tensor, "token k"], weight: Float[Tensor, "d_sae d_out"]
) -> Float[Tensor, "token d_out"]:
    """Σ_j values_j · weight[indices_j]."""
    if indices.shape[1] < crossover(weight.device).weighted * len(weight):
        return F.embedding_bag(indices, weight, mode="sum", per_sample_weights=values)
    rows = _rows(len(weight), weight.device)
    parts = zip(values.split(rows), indices.split(rows), strict=True)
    products = [_as_matrix(*part, len(weight)) @ weight for part in parts]
    return torch.cat(products).to(weight.dtype)  # autocast makes less of them


def transposed_sum(
    values: Float[Tensor, "token k"],
    indices: Int64[Tensor, "token k"],
    rows: Float[Tensor, "token d_out"],
    num_latents: int,
) -> Float[Tensor, "latent d_out"]:
    """Σ over the tokens that use a latent, of value · row: the gradient of `weighted_sum`'s weight.

    Entries are grouped by latent, so that the sum has one order and no atomic additions.
    """
    if indices.shape[1] >= crossover(rows.device).transposed * num_latents:
        chunk = _rows(num_latents, rows.device)
        parts = zip(values.split(chunk), indices.split(chunk), rows.split(chunk), strict=True)
        products = (_as_matrix(f, latents, num_latents).t() @ part for f, latents, part in parts)
        return reduce(Tensor.add_, (product.to(rows.dtype) for product in products))
    entries, starts = grouped_by_latent(indices, num_latents)
    tokens, values = entries // indices.shape[1], values.flatten().index_select(0, entries)
    return F.embedding_bag(tokens, rows, starts, mode="sum", per_sample_weights=values)


def grouped_by_latent(
    indices: Int64[Tensor, "*token k"], num_latents: int
) -> tuple[Int64[Tensor, " entry"], Int64[Tensor, " latent"]]:
    """The entries of codes in the order of their latents, and where each latent's begin.

    The sort is stable, so that sums over a latent's entries have one order.
    """
    few = num_latents <= torch.iinfo(torch.int16).max
    kind = torch.int16 if few else torch.int32  # as int64 it takes two to three times as long
    latents, entries = torch.sort(indices.flatten().to(kind), stable=True)
    numbers = torch.arange(num_latents, device=latents.device, dtype=latents.dtype)
    return entries, torch.searchsorted(latents, numbers)


def inner_products(
    rows: Float[Tensor, "token d_out"],
    indices: Int64[Tensor, "token k"],
    weight: Float[Tensor, "latent d_out"],
) -> Float[Tensor, "token k"]:
    """rows[t] · weight[indices[t, j]]: the gradient of `weighted_sum`'s values."""
    num_tokens, k = indices.shape
    if k >= crossover(weight.device).inner * len(weight):
        chunk = _rows(len(weight), weight.device)
        parts = zip(rows.split(chunk), indices.split(chunk), strict=True)
        products = [(part @ weight.t()).gather(1, chosen) for part, chosen in parts]
        return torch.cat(products).to(rows.dtype)
    starts = torch.arange(0, num_tokens * k, k, device=indices.device)
    bags = torch.arange(num_tokens, device=indices.device).repeat_interleave(k)
    return inner_products_of_bags(rows, bags, starts, indices.flatten(), weight).view(num_tokens, k)


def inner_products_of_bags(
    rows: Float[Tensor, "bag d_out"],
    bags: Int64[Tensor, " entry"],
    starts: Int64[Tensor, " bag"],
    indices: Int64[Tensor, " entry"],
    weight: Float[Tensor, "latent d_out"],
) -> Float[Tensor, " entry"]:
    """rows[bags[e]] · weight[indices[e]], where every bag's entries stand together, from its start on."""
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(rows, weight, indices, starts, bags, 0)


def _rows(d_sae: int, device: torch.device) -> int:
    """Tokens whose latents are written out at once."""
    return max(1, DENSE[device.type] // d_sae)


def _as_matrix(values: Tensor, indices: Tensor, d_sae: int) -> Float[Tensor, "token d_sae"]:
    """Codes with every latent written out, in the precision in which they are then multiplied."""
    kind = values.device.type
    if torch.is_autocast_enabled(kind):
        values = values.to(torch.get_autocast_dtype(kind))
    return Codes(values, indices).dense(d_sae)


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    @custom_fwd(device_type="cuda")
    def forward(ctx, values: Tensor, indices: Tensor, weight: Tensor) -> Tensor:  # noqa: ANN001
        ctx.save_for_backward(values, indices, weight)
        return summed(values, indices, weight)

    @staticmethod
    @custom_bwd(device_type="cuda")  # in the forward pass's precision
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None]:  # noqa: ANN001
        values, indices, weight = ctx.saved_tensors
        grad = grad.contiguous()
        grad_values = inner_products(grad, indices, weight) if ctx.needs_input_grad[0] else None
        grad_weight = (
            transposed_sum(values, indices, grad, weight.shape[0]) if ctx.needs_input_grad[2] else None
        )
        return grad_values, None, grad_weight


class _EncodeTopK(torch.autograd.Function):
    @staticmethod
    @custom_fwd(device_type="cuda")
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:  # noqa: ANN001
        rows = _rows(len(weight), weight.device)
        chosen = [largest(torch.addmm(bias, part, weight.t()), k) for part in x.split(rows)]
        values, indices = chosen[0] if len(chosen) == 1 else map(torch.cat, zip(*chosen, strict=True))
        values = values.to(weight.dtype).relu_()
        ctx.save_for_backward(x, weight, values, indices)
        ctx.mark_non_differentiable(indices)
        return values, indices

    @staticmethod
    @custom_bwd(device_type="cuda")  # in the forward pass's precision
    def backward(ctx, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, Tensor, Tensor, None]:  # noqa: ANN001
        x, weight, values, indices = ctx.saved_tensors
        grad = grad * (values > 0)
        grad_x = summed(grad, indices, weight) if ctx.needs_input_grad[0] else None
        grad_weight = transposed_sum(grad, indices, x, weight.shape[0])
        grad_bias = grad.new_zeros(weight.shape[0]).index_add_(0, indices.flatten(), grad.flatten())
        return grad_x, grad_weight, grad_bias, None
