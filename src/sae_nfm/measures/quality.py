"""How good the dictionaries are as reconstructions: sums over held-out activations."""

import torch
from torch import Tensor

from sae_nfm.measures.sums import Float64Sums
from sae_nfm.models.autoencoder import Parts


class DictionaryQuality(Float64Sums):
    """Explained variance, L0, dead latents and the explained residual, as float64 sums over tokens.

    Args:
        d_in: width of the activations.
        d_sae: number of latents.
    """

    tokens: Tensor
    x_sum: Tensor
    x_squared: Tensor
    sae_error: Tensor
    full_error: Tensor
    active: Tensor
    fired: Tensor
    linear_norm: Tensor
    interaction_norm: Tensor
    has_residual: Tensor

    def __init__(self, d_in: int, d_sae: int) -> None:
        super().__init__()
        self.add_sums(tokens=(), x_sum=d_in, x_squared=(), sae_error=(), full_error=(), active=())
        self.add_sums(linear_norm=(), interaction_norm=())
        self.add_state("fired", torch.zeros(d_sae, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("has_residual", torch.zeros((), dtype=torch.int64), dist_reduce_fx="max")

    def update(self, parts: Parts) -> None:
        """Add tokens: activations in the model's units and what the dictionaries made of them."""
        x = parts.x
        residual = (x - parts.sae).double()
        self.tokens += len(x)
        self.x_sum += x.double().sum(0)
        self.x_squared += x.double().pow(2).sum()
        self.sae_error += residual.pow(2).sum()
        active = parts.codes.values > 0
        self.active += active.sum()
        self.fired += torch.bincount(parts.codes.indices[active], minlength=len(self.fired))
        if parts.linear is not None and parts.interaction is not None:
            self.has_residual.fill_(1)
            self.full_error += (residual - parts.linear - parts.interaction).pow(2).sum()
            self.linear_norm += parts.linear.norm(dim=-1).double().sum()
            self.interaction_norm += parts.interaction.norm(dim=-1).double().sum()

    def compute(self) -> dict[str, float | None]:
        """The figures; those of the residual are None without an NFM.

        - `explained_variance`: 1 − Σ‖x − x̂‖² / Σ‖x − mean x‖², in the model's units.
        - `mse`: mean squared error per dimension.
        - `l0`: mean number of active latents per token.
        - `dead_fraction`: latents that fire on none of these tokens.
        - `residual_explained`: 1 − Σ‖r − r̂‖² / Σ‖r‖² for the residual r = x − x̂.
        - `interaction_share`: Σ‖interaction‖ / (Σ‖linear‖ + Σ‖interaction‖).
        """
        variance = self.x_squared - self.x_sum.pow(2).sum() / self.tokens
        figures = {
            "explained_variance": 1 - self.sae_error / variance,
            "mse": self.sae_error / (self.tokens * len(self.x_sum)),
            "l0": self.active / self.tokens,
            "dead_fraction": (self.fired == 0).double().mean(),
        }
        if self.has_residual:
            figures["residual_explained"] = 1 - self.full_error / self.sae_error
            norms = self.linear_norm + self.interaction_norm
            figures["interaction_share"] = self.interaction_norm / norms.clamp_min(1e-300)
        values: dict[str, float | None] = {name: float(value) for name, value in figures.items()}
        return {"residual_explained": None, "interaction_share": None} | values
