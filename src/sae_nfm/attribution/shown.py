"""What was kept to be looked at, in words: contexts of pairs and latents, and passages."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

BEFORE, AFTER = 28, 12
"""Tokens of a context beside its peak."""
_DIGITS = 3

Decode = Callable[[int], str]


def contexts_of_pair(
    kept: Mapping[str, Sequence[Mapping[str, Any]]], decode: Decode
) -> dict[str, list[dict[str, Any]]]:
    """Where a pair does most, and where it occurs: tokens, and what it takes off at each, in nats."""
    return {
        name: [_cut(context, {"taken_off": context["taken_off"], "product": context["product"]}, decode)
               for context in some]
        for name, some in kept.items()
    }  # fmt: skip


def contexts_of_latent(kept: Sequence[Mapping[str, Any]], decode: Decode) -> list[dict[str, Any]]:
    """Where a latent is most active."""
    return [_cut(context, {"active": context["active"]}, decode) for context in kept]


def passages(kept: Mapping[str, Sequence[Mapping[str, Any]]], decode: Decode) -> list[dict[str, Any]]:
    """Blocks with their KLs, in nats: those that the interactions repair and harm most, and random ones."""
    return [
        {
            "why": why,
            "block": block["block"],
            "tokens": [decode(token) for token in block["tokens"]],
            "scored": [int(at) for at in block["scored"]],
            "kl": {name: rounded(values) for name, values in block["kl"].items()},
        }
        for why, blocks in kept.items()
        for block in blocks
    ]


def rounded(values: Float[np.ndarray, " value"]) -> list[float]:
    """To three digits, which is as much as a colour shows."""
    return [float(f"{value:.{_DIGITS}g}") for value in np.asarray(values, np.float64)]


def _cut(
    context: Mapping[str, Any], rows: Mapping[str, Float[np.ndarray, " pos"]], decode: Decode
) -> dict[str, Any]:
    """What is around a context's peak."""
    start = max(0, context["peak"] - BEFORE)
    stop = context["peak"] + AFTER + 1
    return {
        "block": context["block"],
        "peak": context["peak"] - start,
        "tokens": [decode(token) for token in context["tokens"][start:stop]],
        **{name: rounded(row[start:stop]) for name, row in rows.items()},
    }
