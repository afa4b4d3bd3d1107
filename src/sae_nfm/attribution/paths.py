"""Paths from one reconstruction to another, and what of a change of the KL happens where along them.

Along x̃(α), α from 0 to 1, the KL changes by ∫ Σ_t ∂KL/∂x̃_t · dx̃_t/dα dα, where KL is the sum over all
scored positions, so that what a token does to later ones counts (integrated gradients, Sundararajan et al.
2017). The integral is taken by Gauss–Legendre quadrature, and is linear in dx̃/dα: what dx̃/dα is a sum of, the
change of the KL is a sum over.
"""

from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_nfm.attribution.interactions import Interactions
from sae_nfm.lm.passage import Reached
from sae_nfm.models.normalizer import Units
from sae_nfm.training.through_model import SiteBatch, ThroughModel


class Path(Protocol):
    """Where it is at α, and what it keeps of the gradient there."""

    def at(self, alpha: float) -> Float[Tensor, "token d_model"]:
        """x̃(α) of the scored tokens, in the model's units."""
        ...

    def feel(self, alpha: float, weight: float, gradient: Float[Tensor, "token d_model"]) -> None:
        """Take the gradient ∂ΣKL/∂x̃(α), with its weight in the quadrature."""
        ...


class Straight:
    """x̃(α) = start + α (end − start).

    Attributes:
        felt: ∫ ∂ΣKL/∂x̃ dα, after the walk.
    """

    def __init__(self, start: Float[Tensor, "token d_model"], end: Float[Tensor, "token d_model"]) -> None:
        self.start, self.way = start, end - start
        self.felt = torch.zeros_like(start)

    def at(self, alpha: float) -> Float[Tensor, "token d_model"]:
        """x̃(α)."""
        return self.start + alpha * self.way

    def feel(self, alpha: float, weight: float, gradient: Float[Tensor, "token d_model"]) -> None:
        """Add up."""
        self.felt.add_(gradient, alpha=weight)

    def taken_off(self, part: Float[Tensor, "token d_model"]) -> Float[Tensor, " token"]:
        """What a part of end − start takes off the KL, at every token."""
        return -torch.linalg.vecdot(part, self.felt)


class ByPooled:
    """x̃(α) = start + α c + (head(α φ) − c), c = head(0): the interactions grow in the pooled features.

    With no hidden layer it is straight. Behind one, what sets of latents add up to is scaled before it.

    Attributes:
        felt: ∫ (∂head(y)/∂y at α φ)ᵀ ∂ΣKL/∂x̃ dα over the pooled features, after the walk.
        bias: what c takes off the KL.
    """

    def __init__(
        self,
        interactions: Interactions,
        start: Float[Tensor, "token d_model"],
        pooled: Float[Tensor, "token pooled"],
        units: Units,
    ) -> None:
        self.interactions, self.start, self.pooled, self.units = interactions, start, pooled, units
        self.constant = interactions.part(torch.zeros_like(pooled), units)
        self.felt = torch.zeros_like(pooled)
        self.bias = pooled.new_zeros(len(pooled))

    def at(self, alpha: float) -> Float[Tensor, "token d_model"]:
        """x̃(α)."""
        return (
            self.start + self.interactions.part(alpha * self.pooled, self.units) - (1 - alpha) * self.constant
        )

    def feel(self, alpha: float, weight: float, gradient: Float[Tensor, "token d_model"]) -> None:
        """Add up."""
        with torch.enable_grad():
            leaf = (alpha * self.pooled).requires_grad_()
            part = self.interactions.part(leaf, self.units)
        self.felt.add_(torch.autograd.grad(part, leaf, gradient.to(part.dtype))[0], alpha=weight)
        self.bias.sub_(torch.linalg.vecdot(self.constant, gradient), alpha=weight)

    def taken_off(self, order: int) -> Float[Tensor, " token"]:
        """What all sets of so many latents take off the KL, at every token."""
        of = self.interactions.of_order
        return -torch.linalg.vecdot(of(self.pooled, order), of(self.felt, order))


def walk(path: Path, nodes: int, through: ThroughModel, batch: SiteBatch, clean: Reached | None) -> None:
    """Take a path's integral.

    Args:
        path: of the scored tokens of `batch`.
        nodes: of the quadrature.
        through: sums the KL.
        batch: blocks, all of which go through the suffix at once.
        clean: of the same.
    """
    for alpha, weight in quadrature(nodes):
        _, gradient = through.by_token(path.at(alpha), batch, clean, with_gradient=True)
        assert gradient is not None
        path.feel(alpha, weight, gradient)


def quadrature(nodes: int) -> list[tuple[float, float]]:
    """Gauss–Legendre nodes in (0, 1) and their weights, which add up to 1."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    return [(float((1 + x) / 2), float(w / 2)) for x, w in zip(points, weights, strict=True)]
