"""An SAE that was trained elsewhere."""

import json
from pathlib import Path
from typing import Any

import torch

from sae_nfm.interop import sae_nfm
from sae_nfm.interop.loading import load
from sae_nfm.interop.published import Published
from sae_nfm.measures.quality import DictionaryQuality
from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.recipes.activations import SiteActivations
from sae_nfm.recipes.recipe import Demand, OfASite, size_of
from sae_nfm.store.files import write_atomically
from sae_nfm.store.hashes import file_hash
from sae_nfm.training.weights import METRICS

_CHUNK = 8192
_FAR_L0, _FAR_VARIANCE = 1.25, 0.05
"""By which factor, and by how much, what is found may differ from what a file claims."""


class PublishedSAE(OfASite):
    """Keeps a published SAE in our own format, with its quality on this model and this text.

    Args:
        activations: of the site.
        published: as it was read.
    """

    kind = "published"

    def __init__(self, activations: SiteActivations, published: Published) -> None:
        super().__init__(activations)
        self.published = published

    @property
    def node(self) -> dict[str, Any]:
        """Its family and settings."""
        return self.published.node

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.published.sae.d_sae

    def spec(self) -> dict[str, Any]:
        """Model, text, and what was read: all files, and what was made of them."""
        read = {path.name: file_hash(path) for path in self.published.files}
        made = {"node": self.published.node, "normalizer": self.published.normalizer.kind}
        sizes = {"validation_tokens": self.activations.cfg.validation_tokens}
        return self.activations.spec() | {"files": read, "made": made} | sizes

    def about(self) -> dict[str, Any]:
        """Model, site, text, and where it was read."""
        files = [str(path) for path in self.published.files]
        return self.activations.about() | {"sae": self.published.node, "files": files}

    def make(self, folder: Path) -> None:
        """Measure it on held-out text, and write it."""
        published = self.published
        metrics = self._quality(published.autoencoder)
        config = sae_nfm.sae_config(published.autoencoder, published.node, self.about() | metrics)
        sae_nfm.write(published.autoencoder, config, folder)
        write_atomically(folder / METRICS, json.dumps(metrics, indent=1))

    def blank(self) -> Autoencoder:
        """It is there already, in the format in which it was read."""
        return self.published.autoencoder

    def demand(self) -> Demand:
        """Its quality is measured."""
        autoencoder = self.blank()
        return Demand(self.activations.cfg.validation_tokens, size_of(autoencoder), autoencoder)

    def load(self, folder: Path) -> Autoencoder:
        """The SAE and its normaliser."""
        return load(folder, format=sae_nfm.NAME).autoencoder

    def concerns(self, metrics: dict[str, float]) -> list[str]:
        """What its files claim and this model and text do not bear out."""
        claims, found = self.published.claims, list(self.published.warnings)
        name = self.published.files[0]
        if claims.l0 and not 1 / _FAR_L0 < metrics["l0"] / claims.l0 < _FAR_L0:
            found.append(f"{name} claims an L0 of {claims.l0:.4g}, here it is {metrics['l0']:.4g}")
        variance = metrics["explained_variance"]
        if claims.explained_variance and abs(variance - claims.explained_variance) > _FAR_VARIANCE:
            found.append(
                f"{name} claims an explained variance of {claims.explained_variance:.4g}, here it is "
                f"{variance:.4g}"
            )
        if claims.prepend_bos is False:
            found.append(f"{name} was trained on blocks without BOS, and here every block begins with it")
        if claims.context and claims.context != self.activations.cfg.context:
            found.append(
                f"{name} was trained on blocks of {claims.context} tokens, here they have "
                f"{self.activations.cfg.context}"
            )
        return found

    @torch.no_grad()
    def _quality(self, autoencoder: Autoencoder) -> dict[str, float]:
        held_out, num_tokens = self.activations.validation(0), self.activations.cfg.validation_tokens
        autoencoder = autoencoder.to(held_out.device)
        quality = DictionaryQuality(autoencoder.sae.d_in, autoencoder.sae.d_sae).to(held_out.device)
        for start in range(0, num_tokens, _CHUNK):
            quality.update(autoencoder(held_out.read(start, min(start + _CHUNK, num_tokens))))
        autoencoder.cpu()
        return {name: value for name, value in quality.compute().items() if value is not None}
