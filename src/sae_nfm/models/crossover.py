"""From which share of active latents on a sum over codes is faster with every latent written out.

The shares of a CPU are measured (`benchmarks/crossover.py`); on a GPU gathers run at memory speed and matrix
products at many times that, so that writing out wins early.
"""

from typing import NamedTuple

import torch


class Crossover(NamedTuple):
    """Shares k / d_sae, by operation."""

    weighted: float
    """Σ_j values_j · weight[indices_j]."""
    inner: float
    """rows[t] · weight[indices[t, j]]."""
    transposed: float
    """Σ over the tokens that use a latent, of value · row."""


CROSSOVERS = {"cpu": Crossover(0.5, 0.1, 0.1875), "cuda": Crossover(0.005, 0.005, 0.005)}


def crossover(device: torch.device) -> Crossover:
    """Of a device."""
    return CROSSOVERS[device.type]
