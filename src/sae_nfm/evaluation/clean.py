"""Blocks of tokens as the model runs them when nothing is replaced."""

import hashlib
from collections.abc import Callable, Hashable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from safetensors.torch import save
from torch import Tensor, nn

from sae_nfm.lm.model import LanguageModel
from sae_nfm.lm.site import Prefix, Site
from sae_nfm.measures.divergence import Clean, divergence
from sae_nfm.models.autoencoder import Explained

_PLAIN = (bool, int, float, str)


class Known:
    """What a study has found of some blocks, for other studies of the same."""

    def __init__(self) -> None:
        self._found: dict[float, list[tuple[Tensor, Tensor]]] = {}
        self._explained: dict[str, Explained] = {}
        self.drawn: dict[Hashable, Tensor] = {}
        """The random numbers that studies have drawn for the blocks."""

    def explained(self, sae: str, explain: Callable[[], Explained]) -> Explained:
        """What an SAE makes of the blocks; the first study that asks computes it."""
        if sae not in self._explained:
            self._explained[sae] = explain()
        return self._explained[sae]

    def get(
        self, activation: Float[Tensor, "block pos d_model"]
    ) -> Float[Tensor, "measure block pos"] | None:
        """What was measured of an activation that was spliced in, of this very one; None where nobody has."""
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


def content_of(*modules: nn.Module) -> str:
    """What modules compute, by their settings and their numbers."""
    digest = hashlib.sha256()
    for module in modules:
        settings = {name: value for name, value in vars(module).items() if isinstance(value, _PLAIN)}
        digest.update(repr((type(module), sorted(settings.items()))).encode())
        digest.update(save({name: tensor.cpu().contiguous() for name, tensor in module.state_dict().items()}))
    return digest.hexdigest()


def _mark(activation: Tensor) -> float:
    return float(activation.sum(dtype=torch.float64))
