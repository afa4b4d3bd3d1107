"""What a pair does to the next-token distribution where it does most."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_nfm.attribution.task import AttributionTask
from sae_nfm.models.pairs import PairOrder

_SHOWN = 6


class Moved(NamedTuple):
    """What becomes of a token that might come next, in the mean over contexts."""

    token: int
    probability: float
    """How much more probable it is with the pair than without."""
    logit: float
    """The same of its log-probability, in nats."""


@torch.no_grad()
def moved_tokens(
    task: AttributionTask, pair: Sequence[int], contexts: Sequence[dict[str, Any]]
) -> dict[str, list[Moved]]:
    """The tokens that a pair makes more probable, and less, by most.

    Args:
        task: whose model and dictionary it is.
        pair: its latents.
        contexts: blocks, with the position of the pair's peak.
    """
    if not contexts:
        return {"up": [], "down": []}
    task.eval().autoencoder.to(task.lm.device)  # when the pass was over, Lightning put both back
    numbers = torch.tensor([context["block"] for context in contexts])
    order = PairOrder(torch.tensor([list(pair)]), task.interactions.d_sae)
    batch, parts = task.spliced(numbers)
    codes, units = parts.codes, parts.explained.units
    assert parts.linear is not None
    start, pooled = parts.sae + parts.linear, task.interactions.pooled(codes)
    left = task.interactions.without(codes, pooled, order.places(codes) == 0)
    peaks = (torch.arange(len(contexts)), torch.from_numpy(np.array([c["peak"] for c in contexts])))

    def log_probabilities(pooled: Tensor) -> Float[Tensor, "context d_vocab"]:
        replacement = start + task.interactions.part(pooled, units)
        activation = batch.x.masked_scatter(batch.scored.unsqueeze(-1), replacement)
        reached = task.through.passage(activation, batch.resid)
        return task.through.passage.logits(reached.final[peaks]).log_softmax(-1)

    log_p, log_q = log_probabilities(pooled), log_probabilities(left)
    probability, logit = (log_p.exp() - log_q.exp()).mean(0), (log_p - log_q).mean(0)
    found = {}
    for name, sign in (("up", 1), ("down", -1)):
        best = (sign * probability).topk(min(_SHOWN, len(probability))).indices.tolist()
        found[name] = [Moved(token, float(probability[token]), float(logit[token])) for token in best]
    return found
