"""Blocks of tokens as the model runs them when nothing is replaced."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sae_nfm.lm.model import LanguageModel
from sae_nfm.lm.site import Prefix, Site
from sae_nfm.measures.divergence import Clean, divergence


class Known:
    """What activations that were spliced into the same blocks were found to do, for other studies of them."""

    def __init__(self) -> None:
        self._found: dict[float, list[tuple[Tensor, Tensor]]] = {}

    def get(
        self, activation: Float[Tensor, "block pos d_model"]
    ) -> Float[Tensor, "measure block pos"] | None:
        """What was measured of this very activation; None where nobody has."""
        alike = self._found.get(_mark(activation), [])
        return next((values for seen, values in alike if torch.equal(seen, activation)), None)

    def keep(
        self, activation: Float[Tensor, "block pos d_model"], values: Float[Tensor, "measure block pos"]
    ) -> None:
        """Remember what was measured."""
        self._found.setdefault(_mark(activation), []).append((activation, values))


class CleanRun(NamedTuple):
    """What every condition of a batch is held against."""

    prefix: Prefix
    activation: Float[Tensor, "block pos d_model"]
    """What stands at the site where nothing is replaced: the prefix's, but for what is planted."""
    clean: Clean
    measured: Float[Tensor, "measure block pos"]
    """The clean run against itself."""
    known: Known | None
    """None where no other study is there to ask."""


def clean_run(
    lm: LanguageModel,
    site: Site,
    tokens: Int64[Tensor, "block pos"],
    prefix: Prefix,
    activation: Float[Tensor, "block pos d_model"],
    top_n: int,
    known: Known | None,
) -> CleanRun:
    """Run the model on from the site."""
    logits = lm.suffix(activation, prefix.resid, site)
    clean = Clean.of(logits, tokens, top_n)
    return CleanRun(prefix, activation, clean, divergence(clean, logits), known)


def _mark(activation: Tensor) -> float:
    return float(activation.sum(dtype=torch.float64))
