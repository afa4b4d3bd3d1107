"""The interaction part of an NFM as a sum over sets of latents.

With no hidden layer it is one, exactly: r_int = c + Σ_{i<j} c_ij (+ triples, …), c_ij = f_i f_j W(v_i ∘ v_j).
Behind a hidden layer the sum stands inside: r_int = MLP(Σ_{i<j} f_i f_j v_i ∘ v_j).
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.codes import Codes
from sae_nfm.models.normalizer import Units
from sae_nfm.models.pairs import sum_over_pairs
from sae_nfm.models.residuals.base import ResidualModel
from sae_nfm.models.residuals.nfm import NeuralFactorizationMachine
from sae_nfm.settings.values import NotAllowed

_ELEMENTS = 1 << 22
"""Sizes of pairs that are computed at a time."""


class Interactions:
    """What an NFM's interactions are made of, at tokens whose codes are given.

    Args:
        nfm: the model of the residual.
        back: the normaliser's scale, from its units to the model's.

    Raises:
        NotAllowed: it has no interactions, or pools something else than sums over sets of latents.
    """

    def __init__(self, nfm: ResidualModel | None, back: Float[Tensor, " d_model"]) -> None:
        allowed = "NFMs with interactions, whose pooled features are sums over sets of latents"
        if not isinstance(nfm, NeuralFactorizationMachine) or not nfm.sums_over_sets:
            raise NotAllowed("nfm", None if nfm is None else type(nfm).__name__, allowed)
        if not nfm.has_interaction:
            raise NotAllowed("nfm.interaction", nfm.has_interaction, allowed)
        self.nfm, self.back = nfm, back
        self.d_sae, self.d_embed = nfm.d_sae, nfm.d_embed
        self.orders = range(2, nfm.order + 1)

    @classmethod
    def of(cls, autoencoder: Autoencoder) -> "Interactions":
        """Those of a whole dictionary."""
        return cls(autoencoder.nfm, autoencoder.normalizer.scale)

    def pooled(self, codes: Codes) -> Float[Tensor, "token pooled"]:
        """φ, order beside order."""
        return self.nfm.pool(codes) * self.nfm.pool_scale

    def part(self, pooled: Float[Tensor, "token pooled"], units: Units) -> Float[Tensor, "token d_model"]:
        """What the interactions add to the reconstruction, in the model's units."""
        return units.inverse_difference(self.nfm.head(pooled))

    def of_order(self, vector: Float[Tensor, "token pooled"], order: int) -> Float[Tensor, "token d_embed"]:
        """What of a vector over the pooled features belongs to sets of so many latents."""
        return vector.unflatten(-1, (len(self.orders), self.d_embed))[..., order - 2, :]

    def pair_products(self, codes: Codes, felt: Float[Tensor, "token pooled"]) -> Float[Tensor, "token k k"]:
        """f_i f_j felt·(v_i ∘ v_j) of every two latents of a token; 0 of one with itself."""
        weight = self.of_order(felt * self.nfm.pool_scale, 2)
        z = codes.values.unsqueeze(-1) * self.nfm.V[codes.indices]
        products = (z * weight.unsqueeze(-2)) @ z.mT
        return products.diagonal_scatter(torch.zeros_like(codes.values), dim1=-2, dim2=-1)

    def triple_products(
        self, codes: Codes, felt: Float[Tensor, "token pooled"], first: int
    ) -> Float[Tensor, "token k k"]:
        """f_i f_j f_h felt·(v_i ∘ v_j ∘ v_h) of every two latents with the one at place `first`."""
        weight = self.of_order(felt * self.nfm.pool_scale, 3)
        z = codes.values.unsqueeze(-1) * self.nfm.V[codes.indices]
        return (z * (weight * z[:, first]).unsqueeze(-2)) @ z.mT

    def without(
        self, codes: Codes, pooled: Float[Tensor, "token pooled"], chosen: Bool[Tensor, "token k k"]
    ) -> Float[Tensor, "token pooled"]:
        """φ without some pairs."""
        return pooled - self.only(codes, chosen)

    def only(self, codes: Codes, chosen: Bool[Tensor, "token k k"]) -> Float[Tensor, "token pooled"]:
        """φ of some pairs, and of nothing else."""
        pairs = sum_over_pairs(codes, self.nfm.V, chosen)
        others = pairs.new_zeros(len(pairs), self.d_embed * (len(self.orders) - 1))
        return torch.cat([pairs, others], dim=1) * self.nfm.pool_scale

    @torch.no_grad()
    def lengths(self, pairs: Int64[Tensor, "pair 2"]) -> Float[Tensor, " pair"]:
        """‖W(v_i ∘ v_j)‖ in the model's units: how long c_ij is at f_i f_j = 1.

        On the CPU. Behind a hidden layer it is that of the two linear maps, as if every unit were above 0.
        """
        head, v = self.nfm.head, self.nfm.V
        to_model = head.width_factor * head.W_out * self.back.to(v.device)
        if head.hidden is not None:
            to_model = head.hidden.weight.T @ to_model
        to_model = self.nfm.pool_scale[: self.d_embed, None] * to_model[: self.d_embed]
        size = max(1, _ELEMENTS // to_model.shape[1])
        pieces = pairs.to(v.device).split(size)
        found = [(v[some].prod(1) @ to_model).norm(dim=1) for some in pieces]
        return torch.cat([v.new_zeros(0), *found]).cpu()
