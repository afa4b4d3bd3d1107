"""Our own artifacts: `weights.safetensors` and `config.json`, of an SAE with its normaliser or of an NFM.

`config.json` says what the weights are, and what is known of them. Of an SAE:

    format              "sae_nfm"
    family              "topk", "jumprelu", …
    sae                 its class as `_target_`, and its settings
    normalizer          "scalar", "per_dimension", "none", "token_norm" or "layer_norm"
    d_in, d_sae         its sizes
    subtracts_b_dec     whether its encoder reads x − b_dec

The tensors are `normalizer.mean`, `normalizer.scale` and `sae.*`. Of a model of an SAE's residual, such as
an NFM, there are instead `residual`, its class and settings, and `d_sae` and `d_out`; the tensors are its
own. It reads the codes and predicts the residual in the units of the SAE's normaliser.

Whoever writes adds what else there is to say: `lm` (`name`, `revision`), `site` (`layer`, `hook`), `context`,
`prepend_bos`, `corpus` (`name`), and figures: `explained_variance`, `l0`, `dead_fraction`, `kl`.
"""

import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import save_file
from torch import nn

from sae_nfm.interop.about import claims_of
from sae_nfm.interop.files import Place, Settings, tensors_of
from sae_nfm.interop.published import Published, family_of, make_sae, with_state
from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.normalizer import Normalizer
from sae_nfm.models.residuals.base import ResidualModel
from sae_nfm.models.saes.base import SparseAutoencoder
from sae_nfm.settings.values import NotAllowed
from sae_nfm.store.files import write_atomically

WEIGHTS = ("weights.safetensors",)
CONFIG = "config.json"
NFM = "nfm"
"""The folder of an NFM, where it is published with the SAE that it is on: below the SAE's."""
BESIDE = (CONFIG, f"{NFM}/{CONFIG}", f"{NFM}/{WEIGHTS[0]}")
NAME = "sae_nfm"
NORMALIZERS = ("scalar", "per_dimension", "none", "token_norm", "layer_norm")
M = TypeVar("M", bound=nn.Module)


def sae_config(autoencoder: Autoencoder, node: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """The `config.json` of an SAE.

    Args:
        autoencoder: its normaliser and itself.
        node: its class as `_target_`, and its settings; `d_in` need not be among them.
        about: what else there is to say.
    """
    sae = autoencoder.sae
    return dict(about) | {
        "format": NAME,
        "family": family_of(node["_target_"]),
        "sae": dict(node) | {"d_in": sae.d_in},
        "normalizer": autoencoder.normalizer.kind,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "subtracts_b_dec": sae.subtracts_b_dec,
    }


def residual_config(
    model: ResidualModel, node: Mapping[str, Any], about: Mapping[str, Any]
) -> dict[str, Any]:
    """The `config.json` of an NFM or another model of a residual; as `sae_config`."""
    sizes = {"d_sae": model.d_sae, "d_out": model.d_out}
    family = family_of(node["_target_"])
    return dict(about) | {"format": NAME, "family": family, "residual": dict(node) | sizes, **sizes}


def write(module: nn.Module, config: Mapping[str, Any], folder: Path) -> None:
    """Write an artifact.

    Args:
        module: an `Autoencoder` of normaliser and SAE, or a model of a residual.
        config: as of `sae_config` or `residual_config`.
        folder: is made where it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    save_file(state, folder / WEIGHTS[0])
    write_config(config, folder)


def write_config(config: Mapping[str, Any], folder: Path) -> None:
    """Write `config.json` beside weights."""
    write_atomically(folder / CONFIG, json.dumps(config, indent=1))


def read(place: Place) -> Published:
    """The SAE of an artifact.

    Raises:
        NotAllowed: as `load`; also if its class is none of ours, nor has been imported by whoever calls.
    """
    config = config_of(place.folder)
    node = config.need("sae", dict)
    cls = _class(node, SparseAutoencoder, config.path)
    weights = place.weights
    state = tensors_of(weights)
    of_sae = {key.removeprefix("sae."): each for key, each in state.items() if key.startswith("sae.")}
    of_normalizer = {
        key.removeprefix("normalizer."): each for key, each in state.items() if key.startswith("normalizer.")
    }
    d_in = config.need("d_in", int)
    kind = config.one_of("normalizer", NORMALIZERS)
    normalizer = with_state(Normalizer, {"d_in": d_in, "kind": kind}, of_normalizer, weights)
    subtracts = config.need("subtracts_b_dec", bool)
    sae, node = make_sae(cls, _settings(node) | {"d_in": d_in}, of_sae, weights, subtracts)
    return Published(
        normalizer, sae, node, claims_of(config.all), (weights, config.path), about=dict(config.all)
    )


def read_residual(folder: Path) -> tuple[ResidualModel, dict[str, Any]]:
    """The NFM, or another model of a residual, of an artifact, and its whole `config.json`.

    Raises:
        NotAllowed: as `read`.
    """
    config = config_of(folder)
    node = config.need("residual", dict)
    cls = _class(node, ResidualModel, config.path)
    weights = folder / WEIGHTS[0]
    return with_state(cls, _settings(node), tensors_of(weights), weights), dict(config.all)


def config_of(folder: Path) -> Settings:
    """The settings of an artifact of ours."""
    config = Settings(folder / CONFIG)
    config.one_of("format", (NAME,))
    return config


def _settings(node: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in node.items() if not name.startswith("_")}


def _class(node: Mapping[str, Any], base: type[M], file: Path) -> type[M]:
    """The class that a node names: a file must not have us import just anything.

    Modules of this package are imported; any other must have been, by whoever calls.
    """
    target = str(node.get("_target_"))
    if target.startswith("sae_nfm."):
        with suppress(ImportError):  # and so it is none of the classes there are
            importlib.import_module(target.rpartition(".")[0])
    for cls in _below(base):
        if f"{cls.__module__}.{cls.__qualname__}" == target:
            return cls
    allowed = f"kinds of {base.__name__} in sae_nfm, and those that the caller has imported"
    raise NotAllowed("_target_", target, allowed, f"in {file}")


def _below(base: type[M]) -> Iterator[type[M]]:
    for cls in base.__subclasses__():
        yield cls
        yield from _below(cls)
