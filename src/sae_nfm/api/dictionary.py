"""`Dictionary`: an SAE and its NFM at their site of a language model."""

from collections.abc import Mapping
from functools import cache, partial
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sae_nfm.api.model import activations_of, kl_of, model_at, tokens_of
from sae_nfm.data.tokens import text_tokens
from sae_nfm.lm.model import LanguageModel
from sae_nfm.lm.site import Site
from sae_nfm.models.autoencoder import Autoencoder, Parts
from sae_nfm.models.codes import Codes
from sae_nfm.models.residuals.base import ResidualModel
from sae_nfm.models.saes.base import SparseAutoencoder
from sae_nfm.settings.values import NotAllowed

_ADDED: Mapping[str, tuple[Literal["linear", "interaction"], ...]] = {
    "sae": (),
    "sae_linear": ("linear",),
    "sae_interaction": ("interaction",),
    "sae_nfm": ("linear", "interaction"),
}
CONDITIONS = ("clean", *_ADDED)
"""What stands in for an activation: itself, the SAE's reconstruction, or that and parts of the NFM. Where
there is no NFM, it is one of the first two."""


class Dictionary:
    """An SAE, with an NFM or without, at its site of its language model.

    Wherever a text is taken, so are tokens, [pos] or [block, pos], as they go into the model, BOS included.
    What is returned of every position has these dimensions first.

    Args:
        autoencoder: normaliser, SAE and NFM.
        site: where it reads and writes.
        lm: the model, or its name or folder, from which it is loaded when it is first needed.
        dtype: of a model that is loaded.
    """

    def __init__(
        self, autoencoder: Autoencoder, site: Site, lm: LanguageModel | str, dtype: str = "float32"
    ) -> None:
        self.autoencoder, self.site = autoencoder.eval(), site
        self._model = cache(partial(model_at, site, autoencoder.sae.d_in, lm, dtype))

    @property
    def sae(self) -> SparseAutoencoder:
        """The SAE, which works in the normaliser's units."""
        return self.autoencoder.sae

    @property
    def nfm(self) -> ResidualModel | None:
        """The NFM, which predicts the SAE's residual in the same units; None where there is none."""
        return self.autoencoder.nfm

    @property
    def lm(self) -> LanguageModel:
        """The frozen model; a `NotAllowed` where it cannot be loaded or is not one of this dictionary's."""
        return self._model().to(self.device)

    @property
    def device(self) -> torch.device:
        """Where the dictionary and its model are, and what they return."""
        return self.autoencoder.normalizer.scale.device

    def to(self, device: torch.device | str) -> "Dictionary":
        """Move the dictionary and its model.

        Examples:
            >>> sae_nfm.load("runs/first").to("cpu").device
            device(type='cpu')
        """
        self.autoencoder.to(device)
        return self

    def tokens(self, text: str) -> Int64[Tensor, " pos"]:
        """All tokens of a text, BOS first, as the blocks of an evaluation have them.

        Examples:
            >>> sae_nfm.load("runs/first").tokens("the shape of the array")
            tensor([  0, 810, 570, 298, 270, 501])
        """
        return text_tokens(text, self.lm.tokenizer)

    def encode(self, text: str | Int64[Tensor, "*block pos"]) -> Codes:
        """Values and indices of the active latents, both [pos, k]; an entry whose value is 0 is inactive.

        Examples:
            >>> codes = sae_nfm.load("runs/first").encode("the shape of the array")
            >>> codes.values.shape, codes.strongest(2).indices.shape
            (torch.Size([6, 4]), torch.Size([6, 2]))
        """
        return self.parts(text).codes

    @torch.no_grad()
    def parts(self, text: str | Int64[Tensor, "*block pos"]) -> Parts:
        """The activations at the site, [pos, d_model], and all that the dictionary makes of them.

        Examples:
            >>> parts = sae_nfm.load("runs/first").parts("the shape of the array")
            >>> parts.x.shape, parts.sae.shape, parts.interaction.shape
            (torch.Size([6, 128]), torch.Size([6, 128]), torch.Size([6, 128]))
        """
        lm = self.lm
        return self._parts(activations_of(tokens_of(text, lm), lm, self.site))

    @torch.no_grad()
    def reconstruct(
        self, x: Float[Tensor, "*token d_model"], condition: str = "sae"
    ) -> Float[Tensor, "*token d_model"]:
        """What stands in for activations of the site under one of `CONDITIONS`, in the model's units.

        Examples:
            >>> dictionary = sae_nfm.load("runs/first")
            >>> x = dictionary.parts("the shape of the array").x
            >>> error = dictionary.reconstruct(x, condition="sae_nfm") - x
            >>> bool(error.norm() < x.norm())
            True
        """
        allowed = CONDITIONS if self.nfm is not None else CONDITIONS[:2]
        if condition not in allowed:
            raise NotAllowed("condition", condition, allowed)
        parts = self._parts(x.to(self.device))
        return parts.x if condition == "clean" else parts.reconstruction(_ADDED[condition])

    @torch.no_grad()
    def kl(
        self, text: str | Int64[Tensor, "*block pos"], condition: str = "sae"
    ) -> Float[Tensor, "*block pos"]:
        """KL(clean‖spliced) of the prediction after every position, in nats, under one of `CONDITIONS`.

        As in an evaluation by default, all positions are replaced but BOS, which keep their activation.

        Examples:
            >>> kl = sae_nfm.load("runs/first").kl("the shape of the array", condition="sae_nfm")
            >>> kl.shape, float(kl[0]), bool(kl[1:].min() > 0)
            (torch.Size([6]), 0.0, True)
        """
        lm = self.lm
        return kl_of(tokens_of(text, lm), lm, self.site, partial(self.reconstruct, condition=condition))

    def _parts(self, activation: Float[Tensor, "*token d_model"]) -> Parts:
        return self.autoencoder(activation.to(self.autoencoder.normalizer.scale.dtype))
