"""The frozen language model, cut at one site: tokens → prefix → activation → (spliced) → suffix → logits."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from safetensors import SafetensorError
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from sae_nfm.settings.values import NotAllowed, checked
from sae_nfm.store.hashes import file_hash

HOOKS = ("resid_pre", "resid_post", "mlp_out", "attn_out")
_NAMED = 4  # missing weights named in an error
DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class Site:
    """Where activations are read and reconstructions written: a layer (from 0) and a hook point in it."""

    layer: int
    hook: str

    @property
    def name(self) -> str:
        """TransformerLens's name of the hook point."""
        return f"blocks.{self.layer}.hook_{self.hook}"


class Prefix(NamedTuple):
    """What the prefix leaves for a site."""

    activation: Float[Tensor, "block pos d_model"]
    """The activation at the site."""
    resid: Float[Tensor, "block pos d_model"]
    """The residual stream that enters the suffix's first layer; the activation itself if that is it."""


class _PassThrough(nn.Module):
    """Stands where a layer does, without computing it; its attributes are the layer's."""

    def __init__(self, layer: nn.Module, returns_tuple: bool) -> None:
        super().__init__()
        self._layer, self._returns_tuple = [layer], returns_tuple  # in a list: no submodule

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor | tuple[Tensor]:
        """What came in, in the form that the layer returns."""
        return (hidden_states,) if self._returns_tuple else hidden_states

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_layer"][0], name)


@checked
class LanguageModel:
    """A frozen causal LM behind TransformerLens's `TransformerBridge`, in eval mode, without gradients.

    It is no `nn.Module`, so that no checkpoint ever contains it.

    Args:
        path: a Hugging Face model name or a local folder in its format.
        dtype: `float32`, `float64`, `bfloat16` or `float16`.
    """

    def __init__(self, path: str, dtype: Literal["float32", "float64", "bfloat16", "float16"]) -> None:
        self.path, self.dtype = path, dtype
        self.bridge = _boot(path, DTYPES[dtype])
        self.bridge.eval().requires_grad_(False)
        _drop_added_bias(self.bridge)
        self.n_layers: int = self.bridge.cfg.n_layers
        self.d_model: int = self.bridge.cfg.d_model
        self.d_vocab: int = self.bridge.cfg.d_vocab
        self.n_ctx: int = self.bridge.cfg.n_ctx

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The model's own tokenizer."""
        return self.bridge.tokenizer

    def to(self, device: torch.device | str) -> "LanguageModel":
        """Move the weights to `device`."""
        if torch.device(device) != self.device:
            self.bridge.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.bridge.parameters()).device

    def signature(self) -> dict[str, Any]:
        """What identifies the model: the content of a local folder, else its name and revision."""
        folder = Path(self.path)
        if not folder.is_dir():
            revision = getattr(self.bridge.original_model.config, "_commit_hash", None)
            return {"name": self.path, "revision": revision, "dtype": self.dtype}
        files = sorted(p for p in folder.iterdir() if p.suffix in {".json", ".safetensors", ".bin"})
        return {"files": {p.name: file_hash(p) for p in files}, "dtype": self.dtype}

    def check(self, site: Site, context: int) -> None:
        """Raise a `NotAllowed` that lists what the model has, if it lacks the site or the context length."""
        if site.hook not in HOOKS:
            raise NotAllowed("hook", site.hook, HOOKS)
        if not 0 <= site.layer < self.n_layers:
            raise NotAllowed("layer", site.layer, f"0 to {self.n_layers - 1}, the layers of {self.path}")
        if not 2 <= context <= self.n_ctx:
            raise NotAllowed("context", context, f"2 to {self.n_ctx}, the tokens that {self.path} takes")

    def check_finite(self, found: Tensor, what: str) -> None:
        """Raise a `NotAllowed` that says why, as far as can be told, if what the model gave is not finite."""
        if found.isfinite().all():
            return
        why = f"lm.dtype={self.dtype} is too narrow"
        for name, weight in self.bridge.original_model.named_parameters():
            if not weight.isfinite().all():
                why = f"its weight {name.replace('_original_component.', '')} is not finite"
                break
        raise NotAllowed(
            "lm.path",
            self.path,
            "models, in a dtype, whose activations and logits are finite",
            f"{what} hold NaN or infinity, because {why}",
        )

    @torch.no_grad()
    def prefix(self, tokens: Int64[Tensor, "block pos"], site: Site) -> Prefix:
        """Run the model up to the site.

        Raises:
            NotAllowed: NaN or infinity is among the activations.
        """
        prefix = self._run_to(site, tokens.to(self.device))
        self.check_finite(prefix.activation, f"its activations at {site.name}")
        return prefix

    def _run_to(self, site: Site, tokens: Int64[Tensor, "block pos"]) -> Prefix:
        start = self._layer_entered_at(site)
        if start is not None:
            resid = self.bridge(tokens, stop_at_layer=start)
            return Prefix(resid, resid)
        kept: list[Tensor] = []
        resid = f"blocks.{site.layer}.hook_resid_pre"
        hooks = [(name, lambda value, hook: kept.append(value)) for name in (resid, site.name)]
        with self.bridge.hooks(fwd_hooks=hooks):
            self.bridge(tokens, stop_at_layer=site.layer + 1)
        return Prefix(activation=kept[1], resid=kept[0])

    @torch.no_grad()
    def suffix(
        self,
        activation: Float[Tensor, "row pos d_model"],
        resid: Float[Tensor, "row pos d_model"],
        site: Site,
    ) -> Float[Tensor, "row pos d_vocab"]:
        """Splice `activation` in at the site and run the model on to its logits.

        Args:
            activation: what stands at the site, in the model's units; rows are blocks under any condition.
            resid: `Prefix.resid` of the same rows; read only where a hook has to splice.
            site: the site that both belong to.
        """
        activation = activation.to(DTYPES[self.dtype])
        start = self._layer_entered_at(site)
        if start is not None:
            return self._run_from(start, activation)
        with self.bridge.hooks(fwd_hooks=[(site.name, lambda value, hook: activation)]):
            return self._run_from(site.layer, resid)

    def _run_from(self, layer: int, resid: Float[Tensor, "row pos d_model"]) -> Tensor:
        with self._passing_through(layer):
            return self.bridge(resid, start_at_layer=layer, use_cache=False)

    @contextmanager
    def _passing_through(self, num_layers: int) -> Iterator[None]:
        """Have the first layers hand on what they get.

        The bridge's `start_at_layer` alone computes them and throws the result away.
        """
        layers = self.bridge.blocks
        skipped = list(layers[:num_layers])
        for number, layer in enumerate(skipped):
            layers[number] = _PassThrough(layer, self._layers_return_tuples)
        try:
            yield
        finally:
            for number, layer in enumerate(skipped):
                layers[number] = layer

    @cached_property
    def _layers_return_tuples(self) -> bool:
        """Whether this architecture's layers return the residual stream in a tuple."""
        found: list[bool] = []
        handle = self.bridge.blocks[0].register_forward_hook(
            lambda module, args, output: found.append(isinstance(output, tuple))
        )
        with handle:
            self.bridge(torch.zeros(1, 1, dtype=torch.int64, device=self.device), stop_at_layer=1)
        return found[0]

    def _layer_entered_at(self, site: Site) -> int | None:
        """The layer whose whole input the site's activation is, or None if a hook has to put it in place."""
        if site.hook == "resid_pre":
            return site.layer
        is_last = site.layer == self.n_layers - 1
        return site.layer + 1 if site.hook == "resid_post" and not is_last else None

    @torch.no_grad()
    def logits(self, tokens: Int64[Tensor, "block pos"]) -> Float[Tensor, "block pos d_vocab"]:
        """The plain full run."""
        return self.bridge(tokens.to(self.device))


def _drop_added_bias(bridge: TransformerBridge) -> None:
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


def _boot(path: str, dtype: torch.dtype) -> TransformerBridge:
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
