"""A Hugging Face model through the bridge, quietly and whole."""

import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel
from transformers.utils import logging as transformers_logging

from sae_nfm.settings.values import NotAllowed

_NAMED = 4  # missing weights named in an error


def drop_added_bias(bridge: TransformerBridge) -> None:
    """Take away the zeros that the bridge adds to the logits of a model without a bias, at a copy of them."""
    unembed = bridge.unembed.original_component
    assert isinstance(unembed, nn.Module)
    if "bias" in dict(unembed.named_buffers()):
        unembed.register_buffer("bias", None)


class _Loader:
    """A model class to the bridge; it remembers which weights were not found, and so are random."""

    def __init__(self) -> None:
        self.not_found: list[str] = []

    def from_pretrained(self, *args: Any, **kwargs: Any) -> PreTrainedModel:
        """Load as `transformers` does; weights that are tied to others need not be found."""
        sees = hasattr(kwargs["config"], "vision_config")
        kind = AutoModelForImageTextToText if sees else AutoModelForCausalLM
        settings = {"output_loading_info": True, "ignore_mismatched_sizes": True, **kwargs}
        loaded: Any = kind.from_pretrained(*args, **settings)
        model, info = loaded
        other_shapes = [f"{name} (of another shape)" for name, *_ in info["mismatched_keys"]]
        self.not_found = sorted([*info["missing_keys"], *other_shapes])
        return model


def boot(path: str, dtype: torch.dtype) -> TransformerBridge:
    """Load a model through the bridge, quietly and whole."""
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformer_lens").setLevel(logging.ERROR)
    if path.startswith((".", "/", "~")) and not Path(path).expanduser().is_dir():
        raise NotAllowed("path", path, "a Hugging Face model name or a local folder", "no such folder")
    loader = _Loader()
    try:
        bridge = TransformerBridge.boot_transformers(path, device="cpu", dtype=dtype, model_class=loader)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
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
    return bridge
