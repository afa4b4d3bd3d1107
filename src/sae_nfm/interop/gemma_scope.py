"""Gemma Scope (Lieberum et al. 2024): `params.npz`; Gemma Scope 2: `params.safetensors`, `config.json`."""

import re
from typing import Any

from sae_nfm.interop.files import Place, Settings, Tensors, tensors_of
from sae_nfm.interop.published import Claims, Published, make_sae
from sae_nfm.models.normalizer import Normalizer
from sae_nfm.models.saes.jumprelu import JumpReLUSAE
from sae_nfm.settings.values import NotAllowed

WEIGHTS = ("params.npz", "params.safetensors")
_CONFIG = "config.json"
BESIDE = (_CONFIG,)
_SITES = {"res": "resid_post", "resid_post": "resid_post", "mlp": "mlp_out", "mlp_out": "mlp_out"}


def read(place: Place) -> Published:
    """The SAE in a folder; its layer, hook and L0 stand in the folder's name alone.

    Raises:
        NotAllowed: as `load`.
    """
    weights = place.weights
    config = Settings(place.folder / _CONFIG) if (place.folder / _CONFIG).is_file() else None
    if config is not None:
        _check(config)
    found = tensors_of(weights)
    if "affine_skip_connection" in found:
        raise NotAllowed("affine_skip_connection", "a tensor", "SAEs, not transcoders", f"in {weights}")
    tensors = Tensors(weights, {re.sub("^w_", "W_", name): each for name, each in found.items()})
    d_in, d_sae = tensors.take("W_enc", None, None).shape
    state = {
        "W_enc_rows": tensors.take("W_enc", d_in, d_sae).t(),
        "W_dec": tensors.take("W_dec", d_sae, d_in),
        "b_enc": tensors.take("b_enc", d_sae),
        "b_dec": tensors.take("b_dec", d_in),
        "threshold": tensors.take("threshold", d_sae).clamp_min(0),
    }
    settings: dict[str, Any] = {"d_in": d_in, "d_sae": d_sae}
    sae, node = make_sae(JumpReLUSAE, settings, state, weights, subtracts_b_dec=False)
    files = (weights,) if config is None else (weights, config.path)
    return Published(Normalizer(d_in, "none"), sae, node, _claims(place, config), files)


def _check(config: Settings) -> None:
    config.one_of("architecture", ("jump_relu",), "jump_relu")
    read_at, written_at = (config.get(f"hf_hook_point_{end}", str) for end in ("in", "out"))
    if written_at not in (None, read_at):
        allowed = f"{read_at}, as hf_hook_point_in: SAEs, not transcoders"
        raise NotAllowed("hf_hook_point_out", written_at, allowed, f"in {config.path}")


def _claims(place: Place, config: Settings | None) -> Claims:
    """What the folders' names say, as in `gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71`."""
    layer = _in_name(r"(?:^|/)layer_(\d+)", place)
    l0 = _in_name(r"average_l0_(\d+)", place)
    model = re.search(r"gemma-scope-(\d+b)-(pt|it)-", place.name)
    name = f"google/gemma-2-{model[1]}{'-it' if model[2] == 'it' else ''}" if model else None
    return Claims(
        model=name if config is None else config.get("model_name", str, name),
        layer=None if layer is None else int(layer),
        hook=_hook(place),
        l0=float(l0) if l0 is not None else config and config.get("l0", float),
    )


def _hook(place: Place) -> str | None:
    found = _in_name(r"gemma-scope-\w+-(?:pt|it)-(res|mlp|att)(?:/|$)", place)
    found = found or _in_name(r"/(resid_post|mlp_out|attn_out)(?:/|$)", place)
    if found in ("att", "attn_out"):
        because = "Gemma Scope's are of the heads' outputs before they are mixed, which are not read here"
        raise NotAllowed("path", place.name, "SAEs of the residual stream or of an MLP's output", because)
    return None if found is None else _SITES[found]


def _in_name(pattern: str, place: Place) -> str | None:
    found = re.findall(pattern, place.name)
    return found[-1] if found else None
