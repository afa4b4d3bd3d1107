"""The language model of a dictionary: loaded when it is needed, and run on texts."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sae_nfm.data.tokens import bos_of, text_tokens
from sae_nfm.lm.model import LanguageModel
from sae_nfm.lm.site import Site
from sae_nfm.measures.divergence import Clean, divergence
from sae_nfm.settings.values import NotAllowed


def model_at(site: Site, width: int, lm: LanguageModel | str, dtype: str) -> LanguageModel:
    """The model of a dictionary.

    Args:
        site: where the dictionary is.
        width: of its activations.
        lm: the model, or its name or folder.
        dtype: of a model that is loaded.

    Raises:
        NotAllowed: there is no such model, or it has no such site, or its activations another width.
    """
    lm = lm if isinstance(lm, LanguageModel) else _loaded(lm, dtype)
    lm.check(site, lm.n_ctx)
    if lm.d_model != width:
        because = f"its width is {lm.d_model}"
        raise NotAllowed("lm", lm.path, f"models of width {width}, that of the SAE", because)
    return lm


def _loaded(name: str, dtype: str) -> LanguageModel:
    try:
        return LanguageModel(name, dtype)  # type: ignore[arg-type]
    except NotAllowed as error:
        setting = "lm" if error.setting == "path" else error.setting
        raise NotAllowed(setting, error.value, error.allowed, error.because) from error


def tokens_of(text: str | Int64[Tensor, "*block pos"], lm: LanguageModel) -> Int64[Tensor, "*block pos"]:
    """A text's tokens, or those that are given, where the model is.

    Raises:
        NotAllowed: they are more than the model takes.
    """
    tokens = text_tokens(text, lm.tokenizer) if isinstance(text, str) else text
    if tokens.shape[-1] > lm.n_ctx:
        raise NotAllowed(
            "text", f"{tokens.shape[-1]} tokens", f"up to {lm.n_ctx}, BOS included, which {lm.path} takes"
        )
    return tokens.to(lm.device)


def activations_of(
    tokens: Int64[Tensor, "*block pos"], lm: LanguageModel, site: Site
) -> Float[Tensor, "*block pos d_model"]:
    """What the model has at the site."""
    blocks = tokens.reshape(-1, tokens.shape[-1])
    return lm.prefix(blocks, site).activation.reshape(*tokens.shape, lm.d_model)


def kl_of(
    tokens: Int64[Tensor, "*block pos"],
    lm: LanguageModel,
    site: Site,
    replace: Callable[[Float[Tensor, "block pos d_model"]], Float[Tensor, "block pos d_model"]],
) -> Float[Tensor, "*block pos"]:
    """KL(clean‖spliced) at every position, where `replace` gives what is spliced in everywhere but at BOS."""
    blocks = tokens.reshape(-1, tokens.shape[-1])
    prefix = lm.prefix(blocks, site)
    is_bos = (blocks == bos_of(lm.tokenizer)).unsqueeze(-1)
    spliced = torch.where(is_bos, prefix.activation, replace(prefix.activation))
    clean = lm.suffix(prefix.activation, prefix.resid, site)
    logits = lm.suffix(spliced, prefix.resid, site)
    return divergence(Clean.of(clean, blocks, top_n=0), logits)[0].reshape(tokens.shape)
