"""What a solved linear part takes beside the codes that it reads."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sae_nfm.models.least_squares import RIDGES, NormalEquations, bytes_of, free_bytes, multiply_adds
from sae_nfm.planning.workshop import Planned

_MUCH = 1e9
"""Bytes of equations above which they are counted, and not set up for a measurement."""


def num_features(planned: Planned) -> int:
    """Of the least-squares problem; 0 where none is solved."""
    demand = planned.demand
    if demand.solved is None or demand.autoencoder is None:
        return 0
    return demand.solved.num_features(demand.autoencoder.sae.d_in, demand.autoencoder.sae.d_sae)


def of_adding(planned: Planned) -> float:
    """Operations of adding a token to the equations, with as many active latents as the SAE is to have."""
    features, solved = num_features(planned), planned.demand.solved
    if not features or solved is None or planned.demand.autoencoder is None:
        return 0.0
    active = planned.demand.autoencoder.sae.l0 if solved.solves_every_latent else features
    return 2.0 * multiply_adds(features, min(active, solved.fit_k or active))


def of_solving(planned: Planned) -> float:
    """Operations of solving them: a factorisation for every ridge, and two substitutions for every column."""
    features = num_features(planned)
    columns = planned.demand.autoencoder.sae.d_in if planned.demand.autoencoder is not None else 0
    return len(RIDGES) * features**2 * (features / 3 + 2.0 * columns)


def can_be_measured(planned: Planned, device: torch.device) -> bool:
    """Whether there is a problem, and its equations are small enough to be set up for a look."""
    features = num_features(planned)
    return features > 0 and bytes_of(features) <= min(_MUCH, free_bytes(device) / 2)


def adding_step(planned: Planned, x: Tensor, device: torch.device) -> Callable[[], Any]:
    """Reads codes, and adds them to the equations."""
    solved, autoencoder = planned.demand.solved, planned.demand.autoencoder
    assert solved is not None
    assert autoencoder is not None
    equations = NormalEquations(num_features(planned), autoencoder.sae.d_in, solved.has_bias, device)

    @torch.no_grad()
    def step() -> None:
        explained = autoencoder.explain(x)
        features = solved.features(explained.target, explained.codes)
        equations.add(features, explained.target - explained.decoded)

    return step
