"""What is known of a batch of blocks once its paths are walked."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sae_nfm.attribution.interactions import Interactions
from sae_nfm.attribution.paths import ByPooled, Straight
from sae_nfm.lm.passage import Reached
from sae_nfm.models.autoencoder import Parts
from sae_nfm.models.codes import Codes
from sae_nfm.models.pairs import PairOrder, pair_keys
from sae_nfm.training.through_model import SiteBatch


class Occurring(NamedTuple):
    """Every two latents that are active at the same token, a pair an entry."""

    token: Int64[Tensor, " entry"]
    i: Int64[Tensor, " entry"]
    """The latent of the smaller number."""
    j: Int64[Tensor, " entry"]
    product: Float[Tensor, " entry"]
    """f_i f_j."""
    taken_off: Float[Tensor, " entry"]
    """A_ij: what c_ij takes off the KL, in nats, that of later positions included."""

    @classmethod
    def of(cls, codes: Codes, taken_off: Float[Tensor, "token k k"]) -> "Occurring":
        """From what is symmetric."""
        active = codes.values > 0
        both = (active.unsqueeze(2) & active.unsqueeze(1)).triu_(1)
        token, a, b = both.nonzero(as_tuple=True)
        first, second = codes.indices[token, a], codes.indices[token, b]
        product = codes.values[token, a] * codes.values[token, b]
        i, j = torch.minimum(first, second), torch.maximum(first, second)
        return cls(token, i, j, product, taken_off[token, a, b])

    def among(self, order: PairOrder) -> tuple[Int64[Tensor, " some"], "Occurring"]:
        """Entries of the pairs of an order, and their places in it."""
        places = order.places_of(self.keys(order.d_sae))
        hit = places < order.num_pairs
        return places[hit], Occurring(*(part[hit] for part in self))

    def keys(self, d_sae: int) -> Int64[Tensor, " entry"]:
        """Numbers of the pairs."""
        return pair_keys(self.i, self.j, d_sae)


class Attributed(NamedTuple):
    """A batch of blocks; what is of tokens is of the scored ones, block by block."""

    numbers: Int64[Tensor, " block"]
    batch: SiteBatch
    clean: Reached
    documents: Int64[Tensor, " token"]
    parts: Parts
    kl: Mapping[str, Float[Tensor, " token"]]
    """By what is spliced in: `sae`, `sae_linear`, `sae_nfm`."""
    interactions: Interactions
    pooled: Float[Tensor, "token pooled"]
    path: ByPooled
    """From the linear part to all."""
    pairs: Occurring
    linear: Straight | None
    """From the SAE's reconstruction to the linear part's."""
    error: Straight | None
    """From the SAE's reconstruction to the activation."""
    sae: Straight | None
    """From the decoder's bias to the SAE's reconstruction."""

    @property
    def token_block(self) -> Int64[Tensor, " token"]:
        """Which of the batch's blocks every token is in."""
        return self.batch.scored.nonzero(as_tuple=True)[0]

    def by_position(self, rows: Float[Tensor, "row token"]) -> Float[Tensor, "row block pos"]:
        """What is of scored tokens, in their blocks; 0 elsewhere."""
        out = rows.new_zeros(len(rows), *self.batch.scored.shape)
        out[:, self.batch.scored] = rows
        return out
