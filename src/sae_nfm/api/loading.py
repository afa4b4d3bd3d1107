"""`load`: anything that holds an SAE, as a `Dictionary`."""

import warnings
from pathlib import Path
from typing import Any

from sae_nfm.api.dictionary import Dictionary
from sae_nfm.interop import sae_nfm as own_format
from sae_nfm.interop.fits import check_site
from sae_nfm.interop.loading import load as load_published
from sae_nfm.interop.runs import dictionaries_of, nfm_of
from sae_nfm.lm.model import LanguageModel
from sae_nfm.lm.site import Site
from sae_nfm.models.residuals.base import ResidualModel
from sae_nfm.settings.values import NotAllowed


def load(
    path: str | Path,
    *,
    lm: LanguageModel | str | Path | None = None,
    layer: int | None = None,
    hook: str | None = None,
    file: str | None = None,
    format: str = "auto",
) -> Dictionary:
    """What a study made, an artifact, or an SAE of any format that is read here.

    Args:
        path: folder of a finished study (its SAE and its NFM); folder of an artifact (an SAE, or an NFM with
            the SAE that it is on); or a published SAE: a folder, a file of weights, a name on the hub.
        lm: the model's name or folder, where the files do not say it or it is elsewhere now; or the model
            itself, which then need not be loaded again.
        layer: from 0, where the files do not say it.
        hook: `resid_pre`, `resid_post`, `mlp_out` or `attn_out`, likewise.
        file: a folder or a file of weights below `path`.
        format: of a published SAE: `sae_lens`, `gemma_scope`, `dictionary_learning`, `sparsify`, `sae_nfm`;
            `auto` tells by the names of the files.

    Raises:
        NotAllowed: there is no such thing, it contradicts itself or what is given, or it lacks what only you
            can say.

    Examples:
        >>> dictionary = sae_nfm.load("runs/first")
        >>> dictionary.sae.family, dictionary.nfm.order, dictionary.site
        ('topk', 2, Site(layer=3, hook='resid_post'))
        >>> published = sae_nfm.load("published/sae_lens", lm=dictionary.lm)
        >>> published.nfm is None
        True
    """
    folders = dictionaries_of(Path(path))
    published = load_published(folders.get("sae", path), file, format)
    for warning in published.warnings:
        warnings.warn(warning, stacklevel=2)
    autoencoder, claims = published.autoencoder, published.claims
    if nfm := nfm_of(folders, published):
        autoencoder.nfm = _residual(nfm)
    site = Site(_said("layer", layer, claims.layer), _said("hook", hook, claims.hook))
    check_site(published, site)
    model = _said("lm", lm, claims.model)
    if isinstance(model, LanguageModel):
        return Dictionary(autoencoder.to(model.device), site, model)
    dtype = (published.about.get("lm") or {}).get("dtype", "float32")
    return Dictionary(autoencoder, site, str(model), dtype)


def _residual(folder: Path) -> ResidualModel:
    model, said = own_format.read_residual(folder)
    if plant := (said.get("on") or {}).get("plant"):
        because = "it was trained on a residual that was planted, and not on the model's"
        raise NotAllowed("plant", plant.get("kind"), "null", f"{folder}: {because}")
    return model


def _said(setting: str, given: Any, claimed: Any) -> Any:
    if given is None and claimed is None:
        raise NotAllowed(
            setting, None, f"values that only you can give: load(…, {setting}=…)", "its files do not say it"
        )
    return claimed if given is None else given
