"""How far a spliced next-token distribution is from the clean one, token by token."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sae_nfm.measures.fused import LEAST, fused_sums
from sae_nfm.models.largest import largest, largest_by_groups

_CPU_ELEMENTS = 1 << 19  # logits worked on at once: with more they fall out of the cache
_GPU_ELEMENTS = 1 << 28

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
    likely: Int64[Tensor, "block pos m"]
    """The same and some more, among which Q's N most likely tokens nearly always are."""

    @classmethod
    def of(
        cls, logits: Float[Tensor, "block pos d_vocab"], tokens: Int64[Tensor, "block pos"], top_n: int
    ) -> "Clean":
        """From the clean logits and the tokens that gave them."""
        log_p = logits.to(_wide(logits.dtype)).log_softmax(-1)
        targets = torch.full_like(tokens, -1)
        targets[:, :-1] = tokens[:, 1:]
        likely = log_p.topk(min(4 * top_n, log_p.shape[-1]), dim=-1).indices
        p = log_p.exp().clamp_min_(LEAST)
        return cls(log_p, p, log_p.argmax(-1), targets, likely[..., :top_n], likely)


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
    best = log_q.gather(-1, clean.argmax.unsqueeze(-1))
    target = log_q.gather(-1, clean.targets.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    ce = -target * (clean.targets >= 0)
    if clean.top.shape[-1]:
        return _with_top_n(clean, log_q, best, ce)
    kl = torch.linalg.vecdot(clean.p, clean.log_p - log_q)
    return torch.stack([kl, ce, (best.squeeze(-1) == log_q.amax(-1)).to(kl.dtype)])


def _with_top_n(clean: Clean, log_q: Tensor, best: Tensor, ce: Tensor) -> Tensor:
    """Q's n most likely tokens are looked for among P's likely ones, and among all only where that fails."""
    top, n = clean.top, clean.top.shape[-1]
    of_likely = log_q.gather(-1, clean.likely)
    nth = largest(of_likely, n)[0].amin(-1, keepdim=True)
    kl, reverse_kl, js, above_best, above_nth = fused_sums(clean.p, clean.log_p, log_q, best, nth)
    if (missed := above_nth != (of_likely > nth).sum(-1)).any():
        nth[missed] = largest_by_groups(log_q[missed], n)[0].amin(-1, keepdim=True)
    log_top_q = of_likely[:, :n]
    top_n_kl = top_n_divergence(
        clean.p.gather(-1, top), log_top_q.exp(), clean.log_p.gather(-1, top) - log_top_q
    )
    overlap = (log_top_q >= nth).to(kl.dtype).mean(-1)
    first, second = torch.triu_indices(n, n, offset=1, device=log_q.device)
    tau = (log_top_q[:, first] - log_top_q[:, second]).sign_().mean(-1) if n > 1 else torch.ones_like(kl)
    agreement = (above_best == 0).to(kl.dtype)
    return torch.stack([kl, ce, agreement, top_n_kl, overlap, tau, reverse_kl, js, 1 + above_best])


def top_n_divergence(
    p_top: Float[Tensor, "token n"], q_top: Float[Tensor, "token n"], difference: Float[Tensor, "token n"]
) -> Float[Tensor, " token"]:
    """KL of P and Q over n tokens and the rest taken as one, in nats.

    Args:
        p_top: P of the tokens.
        q_top: Q of the same.
        difference: log P − log Q of the same.
    """
    p_rest, q_rest = ((1 - part.sum(-1)).clamp_min(LEAST) for part in (p_top, q_top))
    return torch.linalg.vecdot(p_top, difference) + p_rest * (p_rest / q_rest).log()


def _wide(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32
