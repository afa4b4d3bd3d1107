"""What is said of every trained SAE, whoever trained it: one formula, at inference, on held-out tokens."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

PREFIXES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
"""Sizes of the nested dictionaries of a Matryoshka SAE, as fractions of its latents."""


@torch.no_grad()
def look(
    encode: Callable[[Tensor], Tensor],
    decode: Callable[[Tensor], Tensor],
    held_out: Tensor,
    d_sae: int,
    nested: bool,
) -> dict[str, Any]:
    """1 − Σ‖x − x̂‖² / Σ‖x − mean‖², mean active latents per token, latents that fire on no token.

    Args:
        encode: activations to latents, all written out.
        decode: latents to activations.
        held_out: activations.
        d_sae: number of latents.
        nested: whether to say also what the first latents explain alone, for every nested dictionary.
    """
    sizes = [round(prefix * d_sae) for prefix in (PREFIXES if nested else (1,))]
    errors, active, fired = [0.0] * len(sizes), 0, torch.zeros(d_sae, dtype=torch.bool)
    for x in held_out.split(8192):
        f = encode(x)
        active += int((f > 0).sum())
        fired |= (f > 0).any(0)
        for i in reversed(range(len(sizes))):
            f[:, sizes[i] :] = 0
            errors[i] += float((x - decode(f)).double().pow(2).sum())
    variance = float((held_out.double() - held_out.double().mean(0)).pow(2).sum())
    explained = [1 - error / variance for error in errors]
    found = {
        "explained_variance": explained[-1],
        "l0": active / len(held_out),
        "dead_fraction": float((~fired).double().mean()),
    }
    return found | ({"prefixes": explained} if nested else {})
