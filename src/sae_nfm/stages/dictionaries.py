"""The stages that make the dictionaries."""

from collections.abc import Callable
from typing import Any

import torch

from sae_nfm.models.residuals.base import ResidualModel
from sae_nfm.recipes.workshop import Workshop


class MakeSAE:
    """Trains, loads or finds the study's SAE."""

    def run(self, workshop: Workshop) -> dict[str, Any]:
        """Which family, how wide, and on how many tokens."""
        sae = workshop.sae().sae
        metrics = workshop.metrics["sae"]
        own = {"k": sae.k} if hasattr(sae, "k") else {}
        entry = {"family": sae.family, "d_sae": sae.d_sae, **own}
        return {
            "sae": entry | {"train_tokens": _count(metrics.get("train_tokens"))},
            "timing": {"sae_tokens_per_s": metrics.get("tokens_per_s")},
        }


class MakeNFM:
    """Trains or finds the study's NFM.

    Args:
        node: its settings, as the configuration has them.
        build: an untrained one, for so many latents and so wide a residual.
    """

    def __init__(self, node: dict[str, Any], build: Callable[[int, int], ResidualModel]) -> None:
        self.node, self.build = node, build

    def run(self, workshop: Workshop) -> dict[str, Any]:
        """Which form, and on how many tokens."""
        torch.manual_seed(workshop.activations.seed)
        sae = workshop.foundation.autoencoder.sae
        workshop.nfm(self.node, self.build(sae.d_sae, sae.d_in))
        metrics = workshop.metrics["nfm"]
        shown = {key: self.node[key] for key in ("order", "d_embed", "linear", "interaction", "fit")}
        return {
            "nfm": shown | {"train_tokens": _count(metrics["train_tokens"])},
            "timing": {"nfm_tokens_per_s": metrics["tokens_per_s"]},
        }


def _count(tokens: float | None) -> int | None:
    return None if tokens is None else int(tokens)
