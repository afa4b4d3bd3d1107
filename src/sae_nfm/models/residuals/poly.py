"""PolySAE's polynomial decoder (arXiv 2602.01322) as a model of the residual: the NFM's nearest rival."""

import torch
from jaxtyping import Float
from torch import Tensor

from sae_nfm.models.codes import Codes, weighted_sum
from sae_nfm.models.residuals.nfm import NeuralFactorizationMachine


class PolynomialDecoder(NeuralFactorizationMachine):
    """r̂ = W_lin f + b + Σ_j C_j a^j + b_out for j from 2 to o, powers elementwise, a = Σ f_i v_i.

    One low rank, `d_embed`, is shared by all orders, as in PolySAE, whose λ_j are in C_j here. Unlike e_2, a²
    also holds i = j: what it finds may be the curvature of single latents as well as interactions. Start,
    scales and training are those of the NFM, so that the two differ in nothing else.
    """

    sums_over_sets = False

    def pool(self, codes: Codes) -> Float[Tensor, "... pooled"]:
        """[a², …, a^order] side by side, unscaled."""
        a = weighted_sum(codes, self.V)
        return torch.cat([a**j for j in range(2, self.order + 1)], dim=-1)
