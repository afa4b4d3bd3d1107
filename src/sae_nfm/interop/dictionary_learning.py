"""dictionary_learning (Marks, Karvonen and Mueller): `ae.pt` and `config.json`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from sae_nfm.interop.about import about_model, hook_name
from sae_nfm.interop.files import Place, Settings, Tensors, tensors_of
from sae_nfm.interop.folded import folded, unit_norm
from sae_nfm.interop.published import Claims, Published, make_sae
from sae_nfm.interop.sites import site_of
from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.normalizer import Normalizer
from sae_nfm.models.saes.base import SparseAutoencoder
from sae_nfm.models.saes.batch_topk import BatchTopKSAE
from sae_nfm.models.saes.gated import GatedSAE
from sae_nfm.models.saes.jumprelu import JumpReLUSAE
from sae_nfm.models.saes.matryoshka import MatryoshkaSAE
from sae_nfm.models.saes.relu import ReLUSAE
from sae_nfm.models.saes.topk import TopKSAE

WEIGHTS = ("ae.pt", "ae_*.pt")
_CONFIG = "config.json"
BESIDE = (_CONFIG,)
USE = (
    "from dictionary_learning.utils import load_dictionary\n\n"
    'sae, config = load_dictionary(FOLDER, device="cpu")'
)
NORMALIZERS = ("scalar", "per_dimension", "none")


class _Kind(NamedTuple):
    """A class of theirs."""

    cls: type[SparseAutoencoder]
    """Ours of the same formula."""
    vectors: Mapping[str, str]
    """Its names of our biases, [d_sae] but for b_dec."""
    subtracts_b_dec: bool = True
    is_linear: bool = True
    """Whether its matrices are those of `nn.Linear`, or [d_in, d_sae] and [d_sae, d_in]."""
    has_k: bool = False
    threshold: Literal["none", "one", "each"] = "none"
    """What encoding compares latents with: nothing, one number, or one of each latent's own."""


_LINEAR = {"b_enc": "encoder.bias", "b_dec": "b_dec"}
_PLAIN = {"b_enc": "b_enc", "b_dec": "b_dec"}
_GATED = {"b_gate": "gate_bias", "b_mag": "mag_bias", "r_mag": "r_mag", "b_dec": "decoder_bias"}
_KINDS = {
    "AutoEncoder": _Kind(ReLUSAE, _LINEAR | {"b_dec": "bias"}),
    "AutoEncoderNew": _Kind(ReLUSAE, _LINEAR | {"b_dec": "decoder.bias"}, subtracts_b_dec=False),
    "GatedAutoEncoder": _Kind(GatedSAE, _GATED),
    "JumpReluAutoEncoder": _Kind(JumpReLUSAE, _PLAIN, False, False, threshold="each"),
    "AutoEncoderTopK": _Kind(TopKSAE, _LINEAR, has_k=True),
    "BatchTopKSAE": _Kind(BatchTopKSAE, _LINEAR, has_k=True, threshold="one"),
    "MatryoshkaBatchTopKSAE": _Kind(MatryoshkaSAE, _PLAIN, is_linear=False, has_k=True, threshold="one"),
}
_WRITTEN = {
    "relu": "AutoEncoder",
    "gated": "GatedAutoEncoder",
    "jumprelu": "JumpReluAutoEncoder",
    "topk": "AutoEncoderTopK",
    "batch_topk": "BatchTopKSAE",
    "matryoshka": "MatryoshkaBatchTopKSAE",
}
FAMILIES = tuple(_WRITTEN)


def read(place: Place) -> Published:
    """The SAE in a folder; of a checkpoint in a folder below, the settings are in the one above it.

    Raises:
        NotAllowed: as `load`.
    """
    weights = place.weights
    above = place.folder.parent / _CONFIG
    is_above = above.is_file() and not (place.folder / _CONFIG).is_file()
    config = Settings(above if is_above else place.folder / _CONFIG)
    trainer, buffer = config.under("trainer"), config.under("buffer")
    kind = _KINDS[trainer.one_of("dict_class", list(_KINDS))]
    found = tensors_of(weights)
    backup = found if isinstance(found.get("ae"), dict) else None
    tensors = Tensors(weights, found["ae"] if backup else found)
    d_in, d_sae = trainer.need("activation_dim", int), trainer.need("dict_size", int)
    state = _state(tensors, kind, d_in, d_sae)
    warnings = ()
    if kind.threshold == "one" and state["threshold"] < 0:
        state["threshold"] = torch.zeros(())
        warnings = (f"{weights}: its threshold was never estimated, every positive latent is active",)
    settings = {"d_in": d_in, "d_sae": d_sae, **_settings(tensors, trainer, kind, d_sae)}
    sae, node = make_sae(kind.cls, settings, state, weights, kind.subtracts_b_dec)
    normalizer = _normalizer(d_in, backup)
    layer, hook = site_of(trainer.get("submodule_name", str), f"submodule_name of {config.path}")
    claims = Claims(
        model=trainer.get("lm_name", str),
        layer=trainer.get("layer", int, layer),
        hook=hook,
        context=buffer.get("ctx_len", int),
        l0=settings.get("k"),
    )
    return Published(normalizer, sae, node, claims, (weights, config.path), warnings)


def _state(tensors: Tensors, kind: _Kind, d_in: int, d_sae: int) -> dict[str, Tensor]:
    if kind.is_linear:
        W_enc_rows = tensors.take("encoder.weight", d_sae, d_in)
        W_dec = tensors.take("decoder.weight", d_in, d_sae).t()
    else:
        W_enc_rows, W_dec = tensors.take("W_enc", d_in, d_sae).t(), tensors.take("W_dec", d_sae, d_in)
    state = {"W_enc_rows": W_enc_rows, "W_dec": W_dec}
    for ours, theirs in kind.vectors.items():
        state[ours] = tensors.take(theirs, d_in if ours == "b_dec" else d_sae)
    if kind.threshold == "each":
        state["threshold"] = tensors.take("threshold", d_sae).clamp_min(0)
    if kind.threshold == "one":
        state["threshold"] = tensors.take("threshold")
    return state


def _settings(tensors: Tensors, trainer: Settings, kind: _Kind, d_sae: int) -> dict[str, Any]:
    """Settings that a family's constructor has besides the sizes."""
    if not kind.has_k:
        return {}
    settings: dict[str, Any] = {"k": int(tensors.take("k")) if "k" in tensors else trainer.need("k", int)}
    if kind.cls is MatryoshkaSAE:
        widths = tensors.take("group_sizes", None).cumsum(0)
        settings["prefixes"] = [int(width) / d_sae for width in widths]
    return settings


def _normalizer(d_in: int, backup: Mapping[str, Any] | None) -> Normalizer:
    """Finished SAEs have it in their biases, a backup of a run that goes on beside its weights."""
    factor = None if backup is None else backup.get("norm_factor")
    if factor is None:
        return Normalizer(d_in, "none")
    normalizer = Normalizer(d_in, "scalar")
    normalizer.scale.fill_(float(factor))
    return normalizer


def write(autoencoder: Autoencoder, family: str, folder: Path, about: Mapping[str, Any]) -> None:
    """Write an SAE into a folder, with an affine normaliser folded in.

    Decoder rows get norm 1; in TopK and BatchTopK only where all have the same, since a factor for each
    latent would change which are active.
    """
    sae, name = autoencoder.sae, _WRITTEN[family]
    kind = _KINDS[name]
    weights = unit_norm(folded(autoencoder, kind.subtracts_b_dec), each=not kind.has_k)
    W_enc, W_dec = weights["W_enc"], weights["W_dec"]
    if kind.is_linear:
        named = {"encoder.weight": W_enc.t(), "decoder.weight": W_dec.t()}
    else:
        named = {"W_enc": W_enc, "W_dec": W_dec}
    named |= {theirs: weights[ours] for ours, theirs in kind.vectors.items()}
    if kind.threshold == "each":
        named["threshold"] = weights["threshold"]
    named = {key: tensor.float().contiguous() for key, tensor in named.items()}
    site = about.get("site") or {}
    trainer: dict[str, Any] = {
        "dict_class": name,
        "activation_dim": sae.d_in,
        "dict_size": sae.d_sae,
        "layer": site.get("layer"),
        "lm_name": about_model(about),
        "submodule_name": hook_name(about),
    }
    if kind.has_k:
        trainer["k"] = sae.k
        named["k"] = torch.tensor(sae.k, dtype=torch.int)
        is_set = kind.threshold == "one"  # a TopK has one too, and encodes without it
        named["threshold"] = weights["threshold"][0].float().clone() if is_set else torch.tensor(-1.0)
    if isinstance(sae, MatryoshkaSAE):
        named["group_sizes"] = torch.tensor([0, *sae.sizes]).diff()
    torch.save(named, folder / WEIGHTS[0])
    config = {"trainer": trainer, "buffer": {"ctx_len": about.get("context")}}
    (folder / _CONFIG).write_text(json.dumps(config, indent=1))
