"""What a pair does to the next-token distribution where it does most."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_nfm.attribution.task import AttributionTask
from sae_nfm.models.pairs import PairOrder

_SHOWN = 6


@torch.no_grad()
def moved_logits(
    task: AttributionTask, pair: Sequence[int], contexts: Sequence[dict[str, Any]]
) -> dict[str, list[tuple[int, float]]]:
    """The tokens whose log-probability a pair raises and lowers most, with the mean change in nats.

    Args:
        task: whose model and dictionary it is.
        pair: its latents.
        contexts: blocks, with the position of the pair's peak.
    """
    if not contexts:
        return {"up": [], "down": []}
    numbers = torch.tensor([context["block"] for context in contexts])
    order = PairOrder(torch.tensor([list(pair)]), task.interactions.d_sae).to(task.device)
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

    moved = (log_probabilities(pooled) - log_probabilities(left)).mean(0)
    return {
        name: list(zip(best.indices.tolist(), (sign * best.values).tolist(), strict=True))
        for name, sign in (("up", 1), ("down", -1))
        if (best := (sign * moved).topk(min(_SHOWN, len(moved)))) is not None
    }
