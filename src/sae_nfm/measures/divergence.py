"""How far a spliced next-token distribution is from the clean one, token by token."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from sae_nfm.models.largest import largest_by_groups

_CPU_ELEMENTS = 1 << 18  # logits worked on at once: what the cache of a core holds beside their temporaries
_GPU_ELEMENTS = 1 << 28

_LEAST = math.log(1e-30)
"""Log-probabilities are exponentiated from here on: products with less would be slow denormal numbers."""

CORE = ("kl", "ce", "agreement")
TOP_N = ("top_n_kl", "top_n_overlap", "top_n_kendall_tau", "reverse_kl", "js", "clean_argmax_rank")


class Clean(NamedTuple):
    """The clean run's distribution P, computed once for all conditions."""

    log_p: Float[Tensor, "block pos d_vocab"]
    p: Float[Tensor, "block pos d_vocab"]
    argmax: Int64[Tensor, "block pos"]
    targets: Int64[Tensor, "block pos"]
    """The token that follows; -1 where the block ends."""
    top: Int64[Tensor, "block pos n"]
    """The N most likely tokens, the likeliest first; N may be 0."""

    @classmethod
    def of(
        cls, logits: Float[Tensor, "block pos d_vocab"], tokens: Int64[Tensor, "block pos"], top_n: int
    ) -> "Clean":
        """From the clean logits and the tokens that gave them."""
        log_p = logits.to(_wide(logits.dtype)).log_softmax(-1)
        targets = torch.full_like(tokens, -1)
        targets[:, :-1] = tokens[:, 1:]
        return cls(log_p, _probability(log_p), log_p.argmax(-1), targets, log_p.topk(top_n, dim=-1).indices)


@torch.no_grad()
def divergence(
    clean: Clean, logits: Float[Tensor, "block pos d_vocab"]
) -> Float[Tensor, "measure block pos"]:
    """Measure spliced logits against the clean run of the same blocks, one value a token.

    Log-probabilities come from a float32 (or wider) `log_softmax`, with no epsilon, so that a KL is capped by
    nothing and that of identical logits is exactly 0. The measures are those of `CORE`, and of `TOP_N` where
    the clean run has top tokens:

    - `kl`: KL(P‖Q) = Σ_v P(v) (log P(v) − log Q(v)), clean P and spliced Q, in nats/token.
    - `ce`: −log Q(next token) in nats; 0 where the block ends.
    - `agreement`: 1 where Q's most likely token is P's.
    - `top_n_kl`: the KL of the distributions over P's top N tokens and the rest taken as one.
    - `top_n_overlap`: the share of P's top N that is in Q's.
    - `top_n_kendall_tau`: Kendall's τ between both orders of P's top N.
    - `reverse_kl`: KL(Q‖P); `js`: ½ KL(P‖M) + ½ KL(Q‖M), M = ½ (P + Q); both in nats/token.
    - `clean_argmax_rank`: the rank that P's most likely token has in Q, from 1.
    """
    flat = [part.flatten(0, 1) for part in (*clean, logits)]
    budget = _CPU_ELEMENTS if logits.device.type == "cpu" else _GPU_ELEMENTS
    size = max(1, budget // logits.shape[-1])
    slices = [
        _measure(Clean(*parts), q) for *parts, q in zip(*(part.split(size) for part in flat), strict=True)
    ]
    return torch.cat(slices, dim=1).unflatten(1, logits.shape[:2])


def _measure(clean: Clean, logits: Float[Tensor, "token d_vocab"]) -> Float[Tensor, "measure token"]:
    """All measures of a slice of tokens; the fields of `clean` are flattened likewise."""
    log_q = logits.to(clean.log_p.dtype).log_softmax(-1)
    target = log_q.gather(-1, clean.targets.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    difference = clean.log_p - log_q
    core = [
        torch.linalg.vecdot(clean.p, difference),
        -target * (clean.targets >= 0),
        (log_q.gather(-1, clean.argmax.unsqueeze(-1)).squeeze(-1) == log_q.amax(-1)).to(target.dtype),
    ]
    return torch.stack(core + (_top_n(clean, log_q, difference) if clean.top.shape[-1] else []))


def top_n_divergence(
    p_top: Float[Tensor, "token n"], q_top: Float[Tensor, "token n"], difference: Float[Tensor, "token n"]
) -> Float[Tensor, " token"]:
    """KL of P and Q over n tokens and the rest taken as one, in nats.

    Args:
        p_top: P of the tokens.
        q_top: Q of the same.
        difference: log P − log Q of the same.
    """
    p_rest, q_rest = ((1 - part.sum(-1)).clamp_min(1e-30) for part in (p_top, q_top))
    return torch.linalg.vecdot(p_top, difference) + p_rest * (p_rest / q_rest).log()


def _top_n(clean: Clean, log_q: Tensor, difference: Tensor) -> list[Tensor]:
    q, top, n = _probability(log_q), clean.top, clean.top.shape[-1]
    log_top_q = log_q.gather(-1, top)
    p_top, q_top = clean.p.gather(-1, top), log_top_q.exp()
    later = torch.triu(torch.ones(n, n, dtype=torch.bool, device=top.device), diagonal=1)
    order = (log_top_q.unsqueeze(-1) - log_top_q.unsqueeze(-2)).sign()[:, later]
    best = log_q.gather(-1, clean.argmax.unsqueeze(-1))
    reverse_kl = -torch.linalg.vecdot(q, difference)
    # log M = log Q + half with half = log ½(1 + P/Q): finite where both probabilities underflow.
    half = nn.functional.softplus(difference).sub_(math.log(2))
    js = 0.5 * (torch.linalg.vecdot(clean.p, difference) - torch.linalg.vecdot(q.add_(clean.p), half))
    above = torch.gt(log_q, best, out=half).sum(-1)  # as numbers, which are added faster than bools
    return [
        top_n_divergence(p_top, q_top, difference.gather(-1, top)),
        (log_top_q >= largest_by_groups(log_q, n)[0].amin(-1, keepdim=True)).to(q.dtype).mean(-1),
        order.mean(-1) if n > 1 else torch.ones_like(best.squeeze(-1)),
        reverse_kl,
        js,
        1 + above,
    ]


def _probability(log: Tensor) -> Tensor:
    return log.clamp_min(_LEAST).exp_()


def _wide(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32
