"""How far a spliced next-token distribution is from the clean one, token by token."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sae_nfm.measures.fused import LEAST, fused_sums
from sae_nfm.models.largest import largest, largest_by_groups

_CPU_ELEMENTS = 1 << 19  # logits worked on at once: with more they fall out of the cache
_GPU_ELEMENTS = 1 << 28
_CPU_TOKENS, _GPU_TOKENS = 128, 4096

Logits = Callable[[Float[Tensor, "token width"]], Float[Tensor, "token d_vocab"]]
"""Makes the logits of tokens from what a run has reached."""

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
        cls,
        reached: Float[Tensor, "block pos width"],
        tokens: Int64[Tensor, "block pos"],
        top_n: int,
        logits: Logits = lambda reached: reached,
    ) -> "Clean":
        """From the clean run and the tokens that gave it.

        Args:
            reached: the clean logits, or what they are made of.
            tokens: of the same.
            top_n: N.
            logits: makes them, some tokens at a time.
        """
        log_p = _log_probabilities(reached.flatten(0, 1), logits).unflatten(0, tokens.shape)
        targets = torch.full_like(tokens, -1)
        targets[:, :-1] = tokens[:, 1:]
        likely = log_p.topk(min(4 * top_n, log_p.shape[-1]), dim=-1).indices
        p = log_p.exp().clamp_min_(LEAST)
        return cls(log_p, p, log_p.argmax(-1), targets, likely[..., :top_n], likely)


def tokens_at_once(device: torch.device) -> int:
    """Tokens whose logits are made at once: with fewer the product takes longer."""
    return _CPU_TOKENS if device.type == "cpu" else _GPU_TOKENS


@torch.no_grad()
def divergence(
    clean: Clean,
    reached: Float[Tensor, "block pos width"],
    logits: Logits = lambda reached: reached,
) -> Float[Tensor, "measure block pos"]:
    """Measure spliced logits against the clean run of the same blocks, one value a token.

    Args:
        clean: that run.
        reached: the spliced logits, or what they are made of.
        logits: makes them, some tokens at a time, so that they never are all there.

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
    flat = [part.flatten(0, 1) for part in (*clean, reached)]
    slices = []
    for *parts, piece in _split(flat, tokens_at_once(reached.device)):
        made = logits(piece)
        budget = _CPU_ELEMENTS if made.device.type == "cpu" else _GPU_ELEMENTS
        size = max(1, budget // made.shape[-1])
        slices += [_measure(Clean(*of_clean), q) for *of_clean, q in _split([*parts, made], size)]
    return torch.cat(slices, dim=1).unflatten(1, reached.shape[:2])


def _log_probabilities(
    reached: Float[Tensor, "token width"], logits: Logits
) -> Float[Tensor, "token d_vocab"]:
    """Of all tokens, made some at a time into one tensor."""
    pieces, start = reached.split(tokens_at_once(reached.device)), 0
    found = None
    for piece in pieces:
        made = logits(piece)
        found = (
            made.new_empty(len(reached), made.shape[-1], dtype=_wide(made.dtype)) if found is None else found
        )
        torch.log_softmax(made, -1, dtype=found.dtype, out=found[start : start + len(piece)])
        start += len(piece)
    assert found is not None
    return found


def _split(tensors: Sequence[Tensor], size: int) -> Iterator[tuple[Tensor, ...]]:
    """Some tokens of all at a time."""
    return zip(*(each.split(size) for each in tensors), strict=True)


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
