"""A linear model of an SAE's residual, solved."""

from pathlib import Path
from typing import Any

from sae_nfm.models.residuals.linear import LinearControl
from sae_nfm.recipes.recipe import Demand, Foundation, OnAnSAE, size_of
from sae_nfm.training.solving import solve
from sae_nfm.training.weights import WEIGHTS, load_weights

_TOKENS_PER_LATENT = 100


class SolvedLinear(OnAnSAE):
    """Solves a linear control.

    Args:
        on: the SAE.
        control: built, not yet solved.
        num_tokens: that it is solved on.
    """

    kind = "linear"
    together = True  # in finding the activations: the first process alone solves

    def __init__(self, on: Foundation, control: LinearControl, num_tokens: int) -> None:
        super().__init__(on)
        self.control, self.num_tokens = control, num_tokens

    def spec(self) -> dict[str, Any]:
        """The SAE, the control's settings, and the tokens."""
        sizes = {"tokens": self.num_tokens, "validation_tokens": self.activations.cfg.validation_tokens}
        return self.on_this_sae() | self.control.settings() | sizes

    def make(self, folder: Path) -> None:
        """Solve it."""
        data = self.activations.module()
        if self.activations.store.ranks.is_first:
            held_out = (data.validation, data.validation_tokens)
            solve(self.control, self.on.autoencoder, data.training, self.num_tokens, *held_out, folder)

    def blank(self) -> LinearControl:
        """Not yet solved."""
        return self.control

    def demand(self) -> Demand:
        """Tokens are read, and a system of equations is solved."""
        saved = size_of(self.control)
        return Demand(self.num_tokens, saved, self.on.autoencoder, solved=self.control)

    def load(self, folder: Path) -> LinearControl:
        """The solved control."""
        load_weights(self.control, folder / WEIGHTS)
        return self.control

    def concerns(self, metrics: dict[str, float]) -> list[str]:
        """That it does harm, or saw few tokens for what it has to settle."""
        found = []
        if metrics["residual_explained"] < 0:
            found.append(
                f"on validation documents it explains {metrics['residual_explained']:.4f} of the SAE's "
                "residual, no correction at all 0.0000"
            )
        per_latent = self.num_tokens / self.on.autoencoder.sae.d_sae
        if per_latent < _TOKENS_PER_LATENT and self.control.solves_every_latent:
            found.append(
                f"linear_tokens={self.num_tokens}: {per_latent:.0f} tokens per latent; below "
                f"{_TOKENS_PER_LATENT} a refitted decoder is not at its best, and interactions may be "
                "credited with what it missed"
            )
        return found
