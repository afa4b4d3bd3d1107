"""How far a spliced next-token distribution is from the clean one, token by token."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

_CPU_ELEMENTS = (
    1 << 20
)  # logits worked on at once: about what the last-level cache holds beside its temporaries
_GPU_ELEMENTS = 1 << 28


class Clean(NamedTuple):
    """The clean run's distribution P, computed once for all conditions."""

    log_p: Float[Tensor, "block pos d_vocab"]
    p: Float[Tensor, "block pos d_vocab"]
    argmax: Int64[Tensor, "block pos"]
    targets: Int64[Tensor, "block pos"]
    """The token that follows; -1 where the block ends."""

    @classmethod
    def of(cls, logits: Float[Tensor, "block pos d_vocab"], tokens: Int64[Tensor, "block pos"]) -> "Clean":
        """From the clean logits and the tokens that gave them."""
        log_p = logits.to(_wide(logits.dtype)).log_softmax(-1)
        targets = torch.full_like(tokens, -1)
        targets[:, :-1] = tokens[:, 1:]
        return cls(log_p, log_p.exp(), log_p.argmax(-1), targets)


class Divergence(NamedTuple):
    """Measures of one condition, one value a token."""

    kl: Float[Tensor, "block pos"]
    """KL(P‖Q) = Σ_v P(v) (log P(v) − log Q(v)), clean P and spliced Q, in nats/token."""
    ce: Float[Tensor, "block pos"]
    """−log Q(next token) in nats; 0 where the block ends."""
    agreement: Bool[Tensor, "block pos"]
    """Whether Q's most likely token is P's."""


@torch.no_grad()
def divergence(clean: Clean, logits: Float[Tensor, "block pos d_vocab"]) -> Divergence:
    """Measure spliced logits against the clean run of the same blocks.

    Log-probabilities come from a float32 (or wider) `log_softmax`, with no epsilon, so that a KL is capped by
    nothing and that of identical logits is exactly 0.
    """
    flat = [part.flatten(0, 1) for part in (clean.log_p, clean.p, clean.argmax, clean.targets, logits)]
    budget = _CPU_ELEMENTS if logits.device.type == "cpu" else _GPU_ELEMENTS
    size = max(1, budget // logits.shape[-1])
    slices = [_measure(*parts) for parts in zip(*(part.split(size) for part in flat), strict=True)]
    return Divergence(*(torch.cat(parts).view(logits.shape[:2]) for parts in zip(*slices, strict=True)))


def _measure(log_p: Tensor, p: Tensor, argmax: Tensor, targets: Tensor, logits: Tensor) -> Divergence:
    log_q = logits.to(log_p.dtype).log_softmax(-1)
    ce = -log_q.gather(-1, targets.clamp_min(0).unsqueeze(-1)).squeeze(-1) * (targets >= 0)
    agreement = log_q.argmax(-1) == argmax
    kl = torch.linalg.vecdot(p, log_p - log_q)
    return Divergence(kl, ce, agreement)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32
