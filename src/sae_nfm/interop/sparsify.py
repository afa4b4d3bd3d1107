"""EleutherAI's sparsify: `<hookpoint>/cfg.json` and `sae.safetensors`, TopK alone."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from sae_nfm.interop.files import Place, Settings, Tensors, tensors_of
from sae_nfm.interop.folded import folded, unit_norm
from sae_nfm.interop.published import Claims, Published, make_sae
from sae_nfm.interop.sites import site_of
from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.normalizer import Normalizer
from sae_nfm.models.saes.topk import TopKSAE
from sae_nfm.settings.values import NotAllowed

WEIGHTS = ("sae.safetensors",)
_CONFIG, _RUN = "cfg.json", "config.json"
BESIDE = (_CONFIG,)
USE = "from sparsify import Sae\n\nsae = Sae.load_from_disk(FOLDER)"
FAMILIES = ("topk",)
NORMALIZERS = ("scalar", "per_dimension", "none")


def read(place: Place) -> Published:
    """The SAE in a hookpoint's folder; the model's name stands in the `config.json` above it.

    Raises:
        NotAllowed: as `load`.
    """
    config = Settings(place.folder / _CONFIG)
    weights = place.weights
    for name in ("transcode", "skip_connection", "signed"):
        if config.get(name, bool, False):
            allowed = "false: SAEs whose latents are positive, not transcoders"
            raise NotAllowed(name, True, allowed, f"in {config.path}")
    config.one_of("activation", ("topk",), "topk")
    d_in, k = config.need("d_in", int), config.need("k", int)
    d_sae = config.get("num_latents", int) or d_in * config.need("expansion_factor", int)
    tensors = Tensors(weights, tensors_of(weights))
    state = {
        "W_enc_rows": tensors.take("encoder.weight", d_sae, d_in),
        "b_enc": tensors.take("encoder.bias", d_sae),
        "W_dec": tensors.take("W_dec", d_sae, d_in),
        "b_dec": tensors.take("b_dec", d_in),
    }
    sae, node = make_sae(TopKSAE, {"d_in": d_in, "d_sae": d_sae, "k": k}, state, weights)
    layer, hook = _site(place)
    claims, files = Claims(layer=layer, hook=hook, l0=float(k)), (weights, config.path)
    if (above := place.folder.parent / _RUN).is_file():
        run = Settings(above)
        claims = claims._replace(model=run.get("model", str), context=run.get("ctx_len", int))
        files += (above,)
    return Published(Normalizer(d_in, "none"), sae, node, claims, files)


def _site(place: Place) -> tuple[int | None, str | None]:
    """What the folder is called after, where it is called after a module."""
    hookpoint = place.name.rpartition("/")[2]
    is_module = re.search(r"(?:^|\.)(?:layers|h)[._]\d", hookpoint)
    return site_of(hookpoint, "folder") if is_module else (None, None)


def write(autoencoder: Autoencoder, family: str, folder: Path, about: Mapping[str, Any]) -> None:
    """Write a TopK SAE into a folder, with an affine normaliser folded in.

    Decoder rows get norm 1 where all have the same; scaling each by its own would change which are the top k.
    """
    sae = autoencoder.sae
    weights = unit_norm(folded(autoencoder, subtracts_b_dec=True), each=False)
    named = {
        "encoder.weight": weights["W_enc"].t(),
        "encoder.bias": weights["b_enc"],
        "W_dec": weights["W_dec"],
        "b_dec": weights["b_dec"],
    }
    save_file({name: each.float().contiguous() for name, each in named.items()}, folder / WEIGHTS[0])
    config = {
        "activation": "topk",
        "expansion_factor": max(1, sae.d_sae // sae.d_in),
        "normalize_decoder": bool((weights["W_dec"].norm(dim=1) - 1).abs().max() < 1e-4),
        "num_latents": sae.d_sae,
        "k": sae.k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": sae.d_in,
    }
    (folder / _CONFIG).write_text(json.dumps(config, indent=1))
