"""What is planted in place of an SAE's residual, fitted to its codes."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from sae_nfm.models.plant import Plant
from sae_nfm.recipes.activations import SAMPLE_TOKENS, sample
from sae_nfm.recipes.recipe import Demand, Foundation, OnAnSAE
from sae_nfm.training.weights import WEIGHTS, save_weights


class FittedPlant(OnAnSAE):
    """Chooses what is planted among the latents of an SAE.

    Args:
        on: the SAE.
        plant: not yet fitted.
    """

    kind = "plant"

    def __init__(self, on: Foundation, plant: Plant) -> None:
        super().__init__(on)
        self.unfitted = plant

    def spec(self) -> dict[str, Any]:
        """The SAE and the plant's settings."""
        return self.on_this_sae()

    @torch.no_grad()
    def make(self, folder: Path) -> None:
        """Fit it on a sample."""
        sae = self.on.autoencoder.sae
        x = self.on.autoencoder.normalizer(sample(self.activations.stream()))
        codes = sae.encode(x)
        self.unfitted.fit(codes, sae.decode(codes), sae.d_sae, self.activations.seed)
        save_weights(self.unfitted, folder / WEIGHTS)

    def blank(self) -> Plant:
        """Not yet fitted."""
        self.unfitted.shape_(self.on.autoencoder.sae.d_in)
        return self.unfitted

    def demand(self) -> Demand:
        """A sample is read."""
        return Demand(SAMPLE_TOKENS, 0, self.on.autoencoder)

    def load(self, folder: Path) -> Plant:
        """The fitted plant."""
        self.unfitted.restore(load_file(folder / WEIGHTS))
        return self.unfitted
