"""A Hugging Face model through the bridge, quietly and whole."""

import copy
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from sae_nfm.lm.layers import fuse_gelu, fuse_rms_norms
from sae_nfm.lm.loading import Loading
from sae_nfm.settings.values import NotAllowed

_NAMED = 4  # missing weights named in an error


class Booted(NamedTuple):
    """One model in two forms, which share their weights where the model is loaded plainly."""

    model: PreTrainedModel
    """As `transformers` runs it, with its fastest attention."""
    bridge: TransformerBridge
    """As TransformerLens does, with all its hook points; it knows what a model's modules are called."""


class _Loader:
    """A model class to the bridge; it keeps the model, and which weights were not found, so are random."""

    def __init__(self, path: str, dtype: torch.dtype, loading: Loading) -> None:
        self.path, self.dtype, self.loading = path, dtype, loading
        self.not_found: list[str] = []

    def from_pretrained(self, *args: Any, **kwargs: Any) -> PreTrainedModel:
        """Load as `transformers` does; weights that are tied to others need not be found."""
        model = self._shapes(**kwargs) if self.loading.blank else self._loaded(*args, **kwargs)
        weights: dict[int, Any] = {id(parameter): parameter for parameter in model.parameters()}
        self.model = _at_its_fastest(copy.deepcopy(model, weights))
        return model

    def from_config(self, config: PretrainedConfig, **kwargs: Any) -> PreTrainedModel:
        """Load the model where its parts belong; the bridge gets one all of whose weights are a single 0."""
        try:
            model = self._loaded(self.path, config=config, **self.loading.settings(self.dtype), **kwargs)
        except (AssertionError, ImportError, RuntimeError, ValueError) as error:  # torch asserts a device
            raise self.loading.refused(error) from error
        self.model = _at_its_fastest(model)
        with torch.device("meta"):
            named = _kind(config).from_config(config, **kwargs)
        return named._apply(lambda weight: torch.zeros((), dtype=weight.dtype).expand(weight.shape))

    def _shapes(self, config: PretrainedConfig, torch_dtype: torch.dtype, **kwargs: Any) -> PreTrainedModel:
        with torch.device("meta"):
            return _kind(config).from_config(config, dtype=torch_dtype)

    def _loaded(self, *args: Any, **kwargs: Any) -> PreTrainedModel:
        settings = {"output_loading_info": True, "ignore_mismatched_sizes": True, **kwargs}
        loaded: Any = _kind(kwargs["config"]).from_pretrained(*args, **settings)
        model, info = loaded
        other_shapes = [f"{name} (of another shape)" for name, *_ in info["mismatched_keys"]]
        self.not_found = sorted([*info["missing_keys"], *other_shapes])
        return model


def is_config_alone(path: str) -> bool:
    """Whether a folder describes a model and holds none of its weights."""
    folder = Path(path).expanduser()
    weights = (".safetensors", ".bin")
    return (folder / "config.json").is_file() and not any(p.suffix in weights for p in folder.iterdir())


def boot(path: str, dtype: torch.dtype, loading: Loading) -> Booted:
    """Load a model, quietly and whole."""
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformer_lens").setLevel(logging.ERROR)
    if path.startswith((".", "/", "~")) and not Path(path).is_dir():
        raise NotAllowed("path", path, "a Hugging Face model name or a local folder", "no such folder")
    loader, device = _Loader(path, dtype, loading), "meta" if loading.blank else "cpu"
    try:
        bridge = TransformerBridge.boot_transformers(
            path, device=device, dtype=dtype, model_class=loader, load_weights=loading.is_plain
        )
    except NotAllowed:
        raise
    except (OSError, ValueError, KeyError, NotImplementedError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise NotAllowed(
            "path",
            path,
            "a Hugging Face model name that can be reached or is in the local cache, or a local folder in "
            "that format",
            f"cannot be loaded ({reason})",
        ) from error
    if loader.not_found:
        named = ", ".join(loader.not_found[:_NAMED]) + ("" if len(loader.not_found) <= _NAMED else ", …")
        raise NotAllowed(
            "path",
            path,
            "models with all the weights that their config.json asks for",
            f"{len(loader.not_found)} of its weights are missing, and would be random: {named}",
        )
    return Booted(loader.model, bridge)


def _kind(config: PretrainedConfig) -> Any:
    return AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM


def _at_its_fastest(model: PreTrainedModel) -> PreTrainedModel:
    """A model of modules that nobody wraps, with torch's own operations."""
    fuse_gelu(model)
    fuse_rms_norms(model)
    if getattr(model.config, "attn_logit_softcapping", None) is None:  # which torch's attention does not know
        with suppress(ValueError):  # of architectures that have no other than their own
            model.set_attn_implementation("sdpa")
    return model
