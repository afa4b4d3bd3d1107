"""A Hugging Face model through the bridge, quietly and whole."""

import copy
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel
from transformers.utils import logging as transformers_logging

from sae_nfm.lm.layers import fuse_gelu
from sae_nfm.settings.values import NotAllowed

_NAMED = 4  # missing weights named in an error


class Booted(NamedTuple):
    """One model in two forms, which share their weights."""

    model: PreTrainedModel
    """As `transformers` runs it, with its fastest attention."""
    bridge: TransformerBridge
    """As TransformerLens does, with all its hook points; it knows what a model's modules are called."""


class _Loader:
    """A model class to the bridge; it keeps the model, and which weights were not found, so are random.

    Args:
        blank: whether only shapes are made, and no weights looked for.
    """

    def __init__(self, blank: bool) -> None:
        self.blank = blank
        self.not_found: list[str] = []

    def from_pretrained(self, *args: Any, **kwargs: Any) -> PreTrainedModel:
        """Load as `transformers` does; weights that are tied to others need not be found."""
        sees = hasattr(kwargs["config"], "vision_config")
        kind = AutoModelForImageTextToText if sees else AutoModelForCausalLM
        if self.blank:
            with torch.device("meta"):
                self.model = _with_the_same_weights(
                    kind.from_config(kwargs["config"], dtype=kwargs["torch_dtype"])
                )
            return self.model
        settings = {"output_loading_info": True, "ignore_mismatched_sizes": True, **kwargs}
        loaded: Any = kind.from_pretrained(*args, **settings)
        model, info = loaded
        other_shapes = [f"{name} (of another shape)" for name, *_ in info["mismatched_keys"]]
        self.not_found = sorted([*info["missing_keys"], *other_shapes])
        self.model = _with_the_same_weights(model)
        return model


def is_config_alone(path: str) -> bool:
    """Whether a folder describes a model and holds none of its weights."""
    folder = Path(path).expanduser()
    weights = (".safetensors", ".bin")
    return (folder / "config.json").is_file() and not any(p.suffix in weights for p in folder.iterdir())


def boot(path: str, dtype: torch.dtype, blank: bool = False) -> Booted:
    """Load a model, quietly and whole; a blank one has shapes alone, on the device `meta`."""
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformer_lens").setLevel(logging.ERROR)
    if path.startswith((".", "/", "~")) and not Path(path).expanduser().is_dir():
        raise NotAllowed("path", path, "a Hugging Face model name or a local folder", "no such folder")
    loader, device = _Loader(blank), "meta" if blank else "cpu"
    try:
        bridge = TransformerBridge.boot_transformers(path, device=device, dtype=dtype, model_class=loader)
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


def _with_the_same_weights(model: PreTrainedModel) -> PreTrainedModel:
    """The same model, of modules that nobody wraps."""
    weights: dict[int, Any] = {id(parameter): parameter for parameter in model.parameters()}
    same = copy.deepcopy(model, weights)
    fuse_gelu(same)
    if getattr(same.config, "attn_logit_softcapping", None) is None:  # which torch's attention does not know
        with suppress(ValueError):  # of architectures that have no other than their own
            same.set_attn_implementation("sdpa")
    return same
