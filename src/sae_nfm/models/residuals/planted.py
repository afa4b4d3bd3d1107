"""A model of a planted residual that knows which products of latents were planted."""

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from sae_nfm.models.codes import Codes
from sae_nfm.models.plant import Plant, products
from sae_nfm.models.residuals.base import ResidualModel


class PlantedProducts(ResidualModel):
    """r̂ = W_lin f + b + Σ Π_(i∈T) f_i · u_T over the planted tuples T; all but the tuples can be trained.

    Args:
        d_sae: number of latents.
        d_out: width of the residual.
        num_tuples: products that were planted.
        size: latents of each.
        linear: whether there is W_lin f.
        bias: whether there is the bias b.
    """

    tuples: Int64[Tensor, "tuple size"]

    def __init__(self, d_sae: int, d_out: int, num_tuples: int, size: int, linear: bool, bias: bool) -> None:
        super().__init__(d_sae, d_out, linear, bias, fit_k=None)
        self.register_buffer("tuples", torch.zeros(num_tuples, size, dtype=torch.int64))
        self.directions = nn.Parameter(torch.zeros(num_tuples, d_out))

    @classmethod
    def of(cls, plant: Plant, d_sae: int, linear: bool, bias: bool) -> "PlantedProducts":
        """Exactly what was planted: no linear part, and every direction as it is."""
        (num_tuples, size), d_out = plant.tuples.shape, plant.directions.shape[1]
        model = cls(d_sae, d_out, num_tuples, size, linear, bias)
        with torch.no_grad():
            model.tuples.copy_(plant.tuples)
            model.directions.copy_(plant.gain * plant.directions)
        return model

    def settings(self) -> dict[str, Any]:
        """As a configuration would have it; the sizes of SAE and residual are left out."""
        num_tuples, size = self.tuples.shape
        parts = {"linear": self.W_lin is not None, "bias": self.b is not None}
        return {"_target_": f"{__name__}.PlantedProducts", "num_tuples": num_tuples, "size": size, **parts}

    def interaction(self, codes: Codes) -> Float[Tensor, "... d_out"]:
        """The products along their directions."""
        planted = products(codes, self.tuples, self.d_sae)
        return planted @ self.directions.to(planted.dtype)
