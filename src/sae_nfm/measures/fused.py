"""Sums over the vocabulary that one loop makes in one reading, where torch can compile one."""

import logging
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

LEAST = 1e-30
"""Of probabilities: products with less would be slow denormal numbers."""

log = logging.getLogger(__name__)


class FusedSums(NamedTuple):
    """One value a token; divergences in nats."""

    kl: Float[Tensor, " token"]
    """KL(P‖Q) = Σ_v P(v) (log P(v) − log Q(v))."""
    reverse_kl: Float[Tensor, " token"]
    """KL(Q‖P)."""
    js: Float[Tensor, " token"]
    """½ KL(P‖M) + ½ KL(Q‖M), M = ½ (P + Q)."""
    above_first: Float[Tensor, " token"]
    """How many tokens have a log Q above a threshold."""
    above_second: Float[Tensor, " token"]


def fused_sums(
    p: Float[Tensor, "token d_vocab"],
    log_p: Float[Tensor, "token d_vocab"],
    log_q: Float[Tensor, "token d_vocab"],
    first: Float[Tensor, "token 1"],
    second: Float[Tensor, "token 1"],
) -> FusedSums:
    """What would take a dozen passes, each through memory, if it were computed operation by operation.

    Args:
        p: P, from `LEAST` on.
        log_p: its logarithm.
        log_q: the same of Q.
        first: a threshold.
        second: another.
    """
    return FusedSums(*_summed(log_q.device.type, log_q.dtype)(p, log_p, log_q, first, second))


def _sums(p: Tensor, log_p: Tensor, log_q: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
    difference = log_p - log_q
    q = log_q.exp().clamp_min(LEAST)
    kl, reverse_kl = (p * difference).sum(-1), -(q * difference).sum(-1)
    half = (0.5 * (p / q) + 0.5).log()  # log M − log Q, 0 where P = Q
    js = 0.5 * kl - (0.5 * (p + q) * half).sum(-1)
    above = ((log_q > threshold).to(q.dtype).sum(-1) for threshold in (first, second))
    return kl, reverse_kl, js, *above


@cache
def _summed(device: str, dtype: torch.dtype) -> Callable[..., tuple[Tensor, ...]]:
    """The loop for a device, compiled at some numbers; operation by operation, where that fails."""
    compiled = torch.compile(_sums, dynamic=True)
    logits = torch.linspace(-1, 1, 64 * 4096, device=device, dtype=dtype).view(64, 4096)
    first, second = logits[:, :1].contiguous(), logits[:, 1:2].contiguous()
    try:  # with tensors laid out as they will be, and none twice, or it would be compiled again
        compiled(logits.exp(), logits, -logits, first, second)
    except Exception as error:  # whatever a compiler that is missing, or does not fit, may raise
        log.info("the top-N measures are computed operation by operation, as torch.compile says: %s", error)
        return _sums
    return compiled
