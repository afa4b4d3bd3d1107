"""SAELens: `cfg.json` and `sae_weights.safetensors`, as version 6 writes them, and flat as those before."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sae_nfm.interop.about import about_model, about_text, hook_name
from sae_nfm.interop.files import Place, Settings, Tensors, tensors_of
from sae_nfm.interop.folded import folded, unit_norm
from sae_nfm.interop.published import Claims, Published, make_sae
from sae_nfm.interop.sites import site_of
from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.normalizer import Normalizer, PublishedKind
from sae_nfm.models.saes.batch_topk import BatchTopKSAE
from sae_nfm.models.saes.gated import GatedSAE
from sae_nfm.models.saes.jumprelu import JumpReLUSAE
from sae_nfm.models.saes.matryoshka import MatryoshkaSAE
from sae_nfm.models.saes.relu import ReLUSAE
from sae_nfm.models.saes.topk import TopKSAE
from sae_nfm.settings.values import NotAllowed

WEIGHTS = ("sae_weights.safetensors",)
_CONFIG, _SCALER, _SPARSITY = "cfg.json", "activation_scaler.json", "sparsity.safetensors"
BESIDE = (_CONFIG, _SCALER, _SPARSITY)
USE = "from sae_lens import SAE\n\nsae = SAE.load_from_disk(FOLDER)"
_CLASSES = {
    "standard": ReLUSAE,
    "gated": GatedSAE,
    "topk": TopKSAE,
    "jumprelu": JumpReLUSAE,
    "batchtopk": BatchTopKSAE,
    "matryoshka_batchtopk": MatryoshkaSAE,
}
_NORMALIZERS: dict[str, PublishedKind] = {
    "none": "none",
    "expected_average_only_in": "scalar",
    "constant_norm_rescale": "token_norm",
    "layer_norm": "layer_norm",
}
_WRITTEN = {
    "relu": "standard",
    "gated": "gated",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "batch_topk": "jumprelu",
    "matryoshka": "jumprelu",
}
FAMILIES = tuple(_WRITTEN)
NORMALIZERS = ("scalar", "per_dimension", "none", "token_norm", "layer_norm")


def read(place: Place) -> Published:
    """The SAE in a folder.

    Raises:
        NotAllowed: as `load`.
    """
    config = _config(place.folder / _CONFIG)
    weights = place.weights
    architecture = config.one_of("architecture", list(_CLASSES))
    if config.get("hook_head_index", int) is not None:
        raise NotAllowed("hook_head_index", config.all["hook_head_index"], "null", f"in {config.path}")
    tensors = Tensors(weights, tensors_of(weights))
    d_in, d_sae = (config.get(name, int) for name in ("d_in", "d_sae"))
    d_sae, d_in = tensors.take("W_dec", d_sae, d_in).shape
    state = _state(tensors, config, architecture, d_in, d_sae)
    normalizer, files, warnings = _normalizer(config, d_in, place.folder)
    settings = {"d_in": d_in, "d_sae": d_sae, **_settings(config, architecture, d_sae)}
    subtracts = config.get("apply_b_dec_to_input", bool, True)
    sae, node = make_sae(_CLASSES[architecture], settings, state, weights, subtracts)
    return Published(
        normalizer, sae, node, _claims(config, place.folder), (weights, config.path, *files), warnings
    )


def _config(path: Path) -> Settings:
    """The settings of any version, in one level and by the names of version 6."""
    config = Settings(path)
    metadata = config.under("metadata")
    version = metadata.get("sae_lens_version", str) or config.get("sae_lens_version", str, "0")
    config.all |= {name: value for name, value in metadata.all.items() if name not in config.all}
    if int(version.partition(".")[0]) >= 6:
        return config
    said = config.all
    for old, new in (("hook_point", "hook_name"), ("hook_point_head_index", "hook_head_index")):
        said.setdefault(new, said.get(old))
    said.setdefault("architecture", "standard")
    said.setdefault("activation_fn", said.get("activation_fn_str"))
    if isinstance(said.get("normalize_activations"), bool):
        said["normalize_activations"] = (
            "expected_average_only_in" if said["normalize_activations"] else "none"
        )
    if config.one_of("activation_fn", ("relu", "topk"), "relu") == "topk":
        said["architecture"] = "topk"
        said["k"] = config.under("activation_fn_kwargs").need("k", int)
    return config


def _state(tensors: Tensors, config: Settings, architecture: str, d_in: int, d_sae: int) -> dict[str, Tensor]:
    biases = ("b_gate", "b_mag", "r_mag") if architecture == "gated" else ("b_enc",)
    W_enc, W_dec = tensors.take("W_enc", d_in, d_sae), tensors.take("W_dec", d_sae, d_in)
    state = {name: tensors.take(name, d_sae) for name in biases}
    if architecture == "jumprelu":
        is_log = "log_threshold" in tensors and "threshold" not in tensors
        found = tensors.take("log_threshold", d_sae).exp() if is_log else tensors.take("threshold", d_sae)
        state["threshold"] = found.clamp_min(0)  # SAELens rectifies, whatever the threshold lets through
    if "batchtopk" in architecture:
        state["threshold"] = tensors.take("topk_threshold").float()
    if config.get("rescale_acts_by_decoder_norm", bool, False):  # thresholds are in these units already
        norms = W_dec.norm(dim=1)
        W_enc, state["b_enc"], W_dec = W_enc * norms, state["b_enc"] * norms, W_dec / norms.unsqueeze(1)
    W_dec = W_dec * _finetuned(tensors, config, d_sae)
    return state | {"W_enc_rows": W_enc.t(), "W_dec": W_dec, "b_dec": tensors.take("b_dec", d_in)}


def _finetuned(tensors: Tensors, config: Settings, d_sae: int) -> Tensor:
    """What latents are multiplied by before the decoder, as a column: versions before 6 could train it."""
    name = "scaling_factor" if "scaling_factor" in tensors else "finetuning_scaling_factor"
    if name not in tensors:
        return torch.ones(1, 1)
    factor = tensors.take(name, d_sae).unsqueeze(1)
    if not torch.allclose(factor, torch.ones_like(factor)) and not config.get(
        "finetuning_scaling_factor", bool, False
    ):
        because = f"{tensors.path} holds a {name} that is not 1 throughout, in {config.path}"
        raise NotAllowed("finetuning_scaling_factor", False, "true", because)
    return factor


def _settings(config: Settings, architecture: str, d_sae: int) -> dict[str, Any]:
    """Settings that a family's constructor has besides the sizes."""
    if architecture == "topk":
        return {"k": config.need("k", int)}
    if "batchtopk" not in architecture:
        return {}
    settings: dict[str, Any] = {"k": max(1, round(config.need("k", float)))}
    if architecture == "matryoshka_batchtopk":
        settings["prefixes"] = [width / d_sae for width in config.need("matryoshka_widths", list)]
    return settings


def _normalizer(
    config: Settings, d_in: int, folder: Path
) -> tuple[Normalizer, tuple[Path, ...], tuple[str, ...]]:
    """The normaliser, what else was read for it, and what to say of it."""
    kind = config.one_of("normalize_activations", list(_NORMALIZERS), "none")
    if kind != "expected_average_only_in":
        return Normalizer(d_in, _NORMALIZERS[kind]), (), ()
    scaler = folder / _SCALER
    if not scaler.is_file():
        said = f"{config.path}: normalize_activations={kind}, but the factor is in none of its files"
        return Normalizer(d_in, "none"), (), (f"{said}; taken as folded into the weights",)
    normalizer = Normalizer(d_in, "scalar")
    normalizer.scale.fill_(1 / Settings(scaler).need("scaling_factor", float))
    return normalizer, (scaler,), ()


def _claims(config: Settings, folder: Path) -> Claims:
    layer, hook = site_of(config.get("hook_name", str), f"hook_name of {config.path}")
    return Claims(
        model=config.get("model_name", str),
        layer=layer,
        hook=hook,
        context=config.get("context_size", int),
        prepend_bos=config.get("prepend_bos", bool),
        l0=config.get("l0", float) or _l0(folder / _SPARSITY) or config.get("k", float),
        explained_variance=config.get("explained_variance", float),
    )


def _l0(path: Path) -> float | None:
    """Of how often each latent fired in training, of which the file has the logarithms to base 10."""
    if not path.is_file():
        return None
    return float((10 ** Tensors(path, tensors_of(path)).take("sparsity", None).double()).sum())


def write(autoencoder: Autoencoder, family: str, folder: Path, about: Mapping[str, Any]) -> None:
    """Write an SAE into a folder, with an affine normaliser folded in and decoder rows of unit norm.

    BatchTopK and its kin become `jumprelu`, as SAELens itself writes them.
    """
    sae, kind = autoencoder.sae, autoencoder.normalizer.kind
    weights = unit_norm(folded(autoencoder), each=family != "topk")
    named = {name: tensor.float().contiguous() for name, tensor in weights.items()}
    save_file(named, folder / WEIGHTS[0])
    normalized = {"token_norm": "constant_norm_rescale", "layer_norm": "layer_norm"}.get(kind, "none")
    config = {
        "architecture": _WRITTEN[family],
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": sae.subtracts_b_dec,
        "normalize_activations": normalized,
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": "6.0.0",
            "model_name": about_model(about),
            "hook_name": hook_name(about),
            "hook_head_index": None,
            "context_size": about.get("context"),
            "prepend_bos": about.get("prepend_bos"),
            "dataset_path": about_text(about),
            **{name: about[name] for name in ("l0", "explained_variance") if about.get(name) is not None},
        },
    }
    if family == "topk":
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    (folder / _CONFIG).write_text(json.dumps(config, indent=1))
