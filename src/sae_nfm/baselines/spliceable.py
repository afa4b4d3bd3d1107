"""A batch of activations as reconstructions and baselines get it."""

from collections.abc import Hashable
from typing import NamedTuple

from jaxtyping import Float, Int64
from torch import Tensor

from sae_nfm.baselines.surroundings import Surroundings
from sae_nfm.models.autoencoder import Parts


class Spliceable(NamedTuple):
    """A batch of blocks at the site, ready to be replaced."""

    x: Float[Tensor, "block pos d_model"]
    """The activations that the clean run has at the site, in float32 or wider."""
    parts: Parts
    blocks: Int64[Tensor, " block"]
    """Number of every block in the split: what random draws are seeded by."""
    seed: int
    surroundings: Surroundings | None
    """What baselines know of other activations; None where no baseline asks."""
    drawn: dict[Hashable, Tensor]
    """Random numbers that were drawn for these very blocks, which all reconstructions share."""
