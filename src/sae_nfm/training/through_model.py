"""A loss of what the model makes of a replacement, with its gradient, in bounded memory.

Blocks go through the suffix a few at a time, and logits are made of some tokens at a time: what a step keeps
of all its tokens is as wide as the residual stream, never as the vocabulary.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from sae_nfm.lm.cut import as_it_is
from sae_nfm.lm.passage import Passage, Reached
from sae_nfm.store.company import ALONE, Company
from sae_nfm.training.objectives.behaviour import Behaviour, Seen

_CPU_ELEMENTS, _GPU_ELEMENTS = 1 << 20, 1 << 26
"""Logits that are worked on at once: on a CPU what its cache holds, beside their temporaries."""
_ROWS = 128
"""Tokens at once at least: the unembedding is read for each such piece."""


class SiteBatch(NamedTuple):
    """Blocks at the site."""

    x: Float[Tensor, "block pos d_model"]
    """The activations of the clean run."""
    resid: Float[Tensor, "block pos d_model"]
    """`Prefix.resid`."""
    tokens: Int64[Tensor, "block pos"]
    scored: Bool[Tensor, "block pos"]
    """The positions that are replaced, and whose predictions count."""

    def targets(self) -> Int64[Tensor, "block pos"]:
        """The token that follows, where it is of the same document and block; else -1."""
        targets = torch.full_like(self.tokens, -1)
        targets[:, :-1] = self.tokens[:, 1:].masked_fill(~self.scored[:, 1:], -1)
        return targets


class ThroughModel:
    """Sums an objective over the scored tokens of blocks whose activations are replaced.

    Args:
        passage: from the site to the unembedding.
        objective: the loss per token.
        blocks_at_once: that go through the suffix together.
        company: the studies of this process, which share the clean run.
    """

    def __init__(
        self,
        passage: Passage,
        objective: Behaviour,
        blocks_at_once: int,
        company: Company = ALONE,
    ) -> None:
        self.passage, self.objective, self.blocks_at_once = passage, objective, blocks_at_once
        self.company, self.place = company, 0

    def __call__(self, replacement: Float[Tensor, "token d_model"], batch: SiteBatch) -> Float[Tensor, ""]:
        """Σ of the objective, differentiable in the replacement.

        Args:
            replacement: of the scored tokens, block by block, in the model's units.
            batch: what is replaced.
        """
        if torch.is_grad_enabled() and replacement.requires_grad:
            return _Summed.apply(replacement, self, batch)
        return self.summed(replacement, batch, False)[0]

    def summed(
        self, replacement: Float[Tensor, "token d_model"], batch: SiteBatch, with_gradient: bool
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "token d_model"]]:
        """The sum, and its gradient or zeros."""
        gradient, start = torch.zeros_like(replacement), 0
        wide = torch.promote_types(replacement.dtype, torch.float32)
        total = torch.zeros((), dtype=wide, device=batch.x.device)
        for first in range(0, len(batch.x), self.blocks_at_once):
            few = SiteBatch(*(part[first : first + self.blocks_at_once] for part in batch))
            stop = start + int(few.scored.sum())
            clean = self.clean(few)
            with as_it_is(batch.x.device):  # objective and gradient too
                values, of_part = self.by_token(replacement[start:stop], few, clean, with_gradient)
                total += values.sum()
            if of_part is not None:
                gradient[start:stop] = of_part
            start = stop
        return total, gradient

    @torch.no_grad()
    def clean(self, batch: SiteBatch) -> Reached | None:
        """What the clean run reaches; None where the objective does not read it."""
        if not self.objective.reads_clean:
            return None
        what, at = ("clean", self.passage.identity), (batch.x, batch.resid)
        return self.company.once_of(what, batch.tokens, lambda: self.passage(*at), self.place)

    def by_token(
        self,
        replacement: Float[Tensor, "token d_model"],
        batch: SiteBatch,
        clean: Reached | None,
        with_gradient: bool,
    ) -> tuple[Float[Tensor, " token"], Float[Tensor, "token d_model"] | None]:
        """The objective at every scored token, and the gradient of its sum; all blocks go at once.

        Args:
            replacement: as of a call.
            batch: what is replaced.
            clean: of the same batch.
            with_gradient: whether there is one; else it is None.
        """
        with torch.set_grad_enabled(with_gradient):
            leaf = replacement.detach().requires_grad_(with_gradient)
            activation = batch.x.to(leaf.dtype).masked_scatter(batch.scored.unsqueeze(-1), leaf)
            spliced = self.passage(activation, batch.resid)
        of_final, of_streams = torch.zeros_like(spliced.final), torch.zeros_like(spliced.streams)
        values, targets = [spliced.final.new_zeros(0)], batch.targets()
        for block, position in self._pieces(batch.scored):
            at = (block, position)
            found, gradients = self._piece(clean, spliced, targets[at], at, with_gradient)
            values.append(found)
            if gradients:
                of_final[at], of_streams[:, block, position] = gradients
        if not with_gradient:
            return torch.cat(values), None
        reached, felt = [spliced.final, spliced.streams], [of_final, of_streams]
        number = 2 if len(spliced.streams) else 1
        return torch.cat(values), torch.autograd.grad(reached[:number], leaf, felt[:number])[0]

    def _pieces(self, scored: Bool[Tensor, "block pos"]) -> Iterator[tuple[Tensor, Tensor]]:
        budget = _CPU_ELEMENTS if scored.device.type == "cpu" else _GPU_ELEMENTS
        size = max(_ROWS, budget // self.passage.lm.d_vocab)
        block, position = scored.nonzero(as_tuple=True)
        yield from zip(block.split(size), position.split(size), strict=True)

    def _piece(
        self,
        clean: Reached | None,
        spliced: Reached,
        targets: Tensor,
        at: tuple[Tensor, Tensor],
        with_gradient: bool,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The objective at some tokens, and the gradient of its sum in what they reach."""
        final = spliced.final[at].detach().requires_grad_(with_gradient)
        streams = spliced.streams[:, at[0], at[1]].detach().requires_grad_(with_gradient)
        with torch.no_grad():
            of_clean = None if clean is None else self._seen(clean.final[at], clean.streams[:, at[0], at[1]])
        with torch.set_grad_enabled(with_gradient):
            seen = self._seen(final, streams)
            values = self.objective.per_token(of_clean or seen, seen, targets)
            total = values.sum()
        if not with_gradient:
            return values, ()
        return values.detach(), torch.autograd.grad(total, (final, streams), materialize_grads=True)

    def _seen(self, final: Tensor, streams: Tensor) -> Seen:
        return Seen(self.passage.logits(final), streams)


class _Summed(torch.autograd.Function):
    """The gradient is there as soon as the value is, so that nothing of the suffix has to be kept."""

    @staticmethod
    def forward(ctx: Any, replacement: Tensor, through: ThroughModel, batch: SiteBatch) -> Tensor:
        total, gradient = through.summed(replacement, batch, True)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad * ctx.saved_tensors[0], None, None
