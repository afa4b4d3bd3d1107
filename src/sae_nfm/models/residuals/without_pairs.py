"""An NFM that must do without some pairs of latents, in training as at the splice."""

from itertools import starmap
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sae_nfm.models.codes import Codes
from sae_nfm.models.pairs import PairOrder, sum_over_pairs
from sae_nfm.models.residuals.nfm import NeuralFactorizationMachine
from sae_nfm.settings.values import Fraction, NotAllowed, checked

_ELEMENTS = 1 << 22
"""Pairs of a token's latents that are looked for at a time."""


@checked
class NFMWithoutPairs(NeuralFactorizationMachine):
    """An NFM whose e_2 leaves out the pairs that an attribution found to take most off the KL.

    What is left out is learned by no other pair's embeddings: if the gain comes back with other pairs, it was
    not due to these.

    Args:
        d_sae: number of latents.
        d_out: width of the residual.
        pairs: the `pairs.parquet` of an attribution, on the same SAE.
        share: of the pairs in it, those that take most off the KL of the half of the documents that chose.
        order: this and all that follow as of an NFM.
        d_embed: …
        embed_std: …
        linear: …
        bias: …
        interaction: …
        mlp: …
        dropout: …
        fit: …
        fit_k: …

    Raises:
        NotAllowed: there is no such file, or so small a share of the pairs in it is none.
    """

    reads = ("pairs",)
    left_out: Int64[Tensor, "pair 2"]

    def __init__(
        self,
        d_sae: int,
        d_out: int,
        pairs: str,
        share: Fraction,
        order: int,
        d_embed: int,
        embed_std: float,
        linear: bool,
        bias: bool,
        interaction: bool,
        mlp: bool,
        dropout: float,
        fit: Literal["together", "linear_then_interaction"],
        fit_k: int | None,
    ) -> None:
        of_nfm = (order, d_embed, embed_std, linear, bias, interaction, mlp, dropout, fit, fit_k)
        super().__init__(d_sae, d_out, *of_nfm)
        self.pairs = pairs
        self.register_buffer("left_out", _top_pairs(Path(pairs), share))

    def initialize_(self, codes: Codes) -> None:
        """As of an NFM, once the pairs are seen to be of this SAE's latents.

        Raises:
            NotAllowed: they are not.
        """
        largest = int(self.left_out.max())
        if largest >= self.d_sae:
            because = f"it has pairs of latents up to {largest}"
            raise NotAllowed("nfm.pairs", self.pairs, f"pairs of latents below {self.d_sae}", because)
        super().initialize_(codes)

    def pool(self, codes: Codes) -> Float[Tensor, "... pooled"]:
        """[e_2 without the pairs, e_3, …] side by side, unscaled."""
        pooled = super().pool(codes)
        order = PairOrder(self.left_out, self.d_sae)
        leading, k = codes.values.shape[:-1], codes.values.shape[-1]
        flat = Codes(codes.values.reshape(-1, k), codes.indices.reshape(-1, k))
        removed = []
        for some in starmap(Codes, zip(*(part.split(_ELEMENTS // k**2 or 1) for part in flat), strict=True)):
            removed.append(sum_over_pairs(some, self.V, order.places(some) < order.num_pairs))
        e_2 = pooled[..., : self.d_embed] - torch.cat(removed).unflatten(0, leading)
        return torch.cat([e_2, pooled[..., self.d_embed :]], dim=-1)


def _top_pairs(path: Path, share: float) -> Int64[Tensor, "pair 2"]:
    if not path.is_file():
        raise NotAllowed("pairs", str(path), "the pairs.parquet that an attribution has written")
    table = pq.read_table(path, columns=["i", "j", "taken_off_choosing"])
    i, j, taken_off = (column.to_numpy() for column in table.columns)
    best = np.argsort(-taken_off, kind="stable")[: round(share * len(i))]  # NaN, which was not kept, is last
    if not len(best):
        raise NotAllowed("share", share, f"shares that are at least one of the {len(i)} pairs")
    return torch.from_numpy(np.stack([i[best], j[best]], axis=1).astype(np.int64))
