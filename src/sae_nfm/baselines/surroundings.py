"""What the activations at a site are like: their mean and covariance, and a bank of real ones."""

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_nfm import progress
from sae_nfm.data.activations import ActivationStream

_FILE = "surroundings.safetensors"
_CHUNK = 8192


class Surroundings(NamedTuple):
    """Statistics of a site's activations, BOS excluded, in the model's units."""

    mean: Float[Tensor, " d_model"]
    """Over training documents."""
    factor: Float[Tensor, "d_model d_model"]
    """L with Σ = L Lᵀ, the covariance over training documents."""
    bank: Float[Tensor, "bank d_model"]
    """Activations of validation documents, none of which is evaluated."""

    def to(self, device: torch.device) -> "Surroundings":
        """The same on another device."""
        return Surroundings(*(tensor.to(device) for tensor in self))


def measure(
    training: ActivationStream, validation: ActivationStream, num_tokens: int, bank_size: int, folder: Path
) -> None:
    """Read activations and write their surroundings into an artifact's folder."""
    count, total, products = 0, 0.0, 0.0
    with progress.line("covariance", num_tokens) as line:
        for start in range(0, num_tokens, _CHUNK):
            x = training.read(start, min(start + _CHUNK, num_tokens)).double()
            count, total, products = count + len(x), total + x.sum(0), products + x.T @ x
            line.at(count)
    assert isinstance(total, Tensor)
    assert isinstance(products, Tensor)
    mean = total / count
    values, vectors = torch.linalg.eigh(products / count - torch.outer(mean, mean))
    factor = vectors * values.clamp_min(0).sqrt()
    bank = validation.read(0, min(bank_size, validation.tokens_per_round))
    made = {"mean": mean.float(), "factor": factor.float(), "bank": bank.float()}
    save_file({name: tensor.cpu().contiguous() for name, tensor in made.items()}, folder / _FILE)


def load(folder: Path) -> Surroundings:
    """Read a finished artifact."""
    return Surroundings(**load_file(folder / _FILE))
