"""From which share of active latents on a sum over codes is faster with every latent written out.

The shares are measured (`benchmarks/crossover.py`). On a GPU gathers run at memory speed and matrix products
at many times that, the more the fewer bits they multiply, so that writing out wins early.
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


CROSSOVERS = {
    "cpu": Crossover(0.5, 0.1, 0.1875),
    "cuda": Crossover(0.016, 0.025, 0.02),
    "cuda, TF32": Crossover(0.0045, 0.0035, 0.0035),
    "cuda, half": Crossover(0.0016, 0.0018, 0.0014),
}
"""By device, and by what a GPU multiplies in."""


def crossover(device: torch.device) -> Crossover:
    """Of a device, as products are computed now."""
    return CROSSOVERS[products(device)]


def products(device: torch.device) -> str:
    """How products of float32 numbers are computed on a device now, as `CROSSOVERS` calls it."""
    if device.type == "cpu":
        return "cpu"
    if torch.is_autocast_enabled("cuda"):
        return "cuda, half"
    return "cuda" if torch.get_float32_matmul_precision() == "highest" else "cuda, TF32"
