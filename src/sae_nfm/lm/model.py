"""The frozen language model, cut at one site: tokens → prefix → activation → (spliced) → suffix → logits."""

import os
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sae_nfm.lm.checks import check_site, not_finite
from sae_nfm.lm.cut import Cut
from sae_nfm.lm.load import boot
from sae_nfm.lm.loading import DeviceMap, Loading, Quantization
from sae_nfm.lm.placement import computes_on, placed
from sae_nfm.lm.site import Prefix, Site
from sae_nfm.settings.values import checked
from sae_nfm.store.hashes import file_hash

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


Dtype = Literal["float32", "float64", "bfloat16", "float16"]


@checked
class LanguageModel:
    """A frozen causal LM, run by its own code; no module, so in no checkpoint.

    TransformerLens's `TransformerBridge` of the same weights says where its hook points are.

    Args:
        path: a Hugging Face model name or a local folder in its format.
        dtype: `float32`, `float64`, `bfloat16` or `float16`.
        checkpointing: whether training through it keeps the inputs of its layers alone, and computes again.
        device_map, max_memory, offload_folder, quantization: as `Loading` takes them.
        blank: whether it has shapes alone, as for a plan; it cannot be run.

    Raises:
        NotAllowed: it cannot be loaded, or not so.
    """

    def __init__(
        self,
        path: str,
        dtype: Dtype,
        checkpointing: bool = False,
        device_map: DeviceMap = None,
        max_memory: dict[str, int | str] | None = None,
        offload_folder: str | None = None,
        quantization: Quantization = None,
        blank: bool = False,
    ) -> None:
        self.path, self.dtype, self.blank = os.path.expanduser(path), dtype, blank
        self.checkpointing, self.quantization = checkpointing, quantization
        loading = Loading(device_map, max_memory, offload_folder, quantization, blank)
        self.model, self.bridge = boot(self.path, DTYPES[dtype], loading)
        for each in (self.model, self.bridge):
            each.eval().requires_grad_(False)
        self._cut = Cut(self.model, self.bridge)
        self.layers, self.unembed = self._cut.layers, self._cut.unembed
        self._placement = placed(loading, self.model, self.layers, self.unembed)
        cfg, self.tokenizer = self.bridge.cfg, cast(PreTrainedTokenizerFast, self.bridge.tokenizer)
        self.n_layers, self.d_model = int(cfg.n_layers), int(cfg.d_model)
        self.d_vocab, self.n_ctx = int(cfg.d_vocab), int(cfg.n_ctx)

    def to(self, device: torch.device | str, reading: Site | None = None) -> "LanguageModel":
        """Move the weights to `device`: all of them, or those alone that reading activations takes.

        The others wait on the host until they are needed. A model that is spread or quantised stays where
        it is, and `device` is where its activations and logits are given.

        Args:
            device: that computes.
            reading: the site whose activations are read; None where the model is run to its end.
        """
        self._placement.put(device, None if reading is None else reading.layers_read)
        return self

    @property
    def device(self) -> torch.device:
        """Where it computes, or hands on what it has computed on several."""
        return self._placement.device

    def signature(self) -> dict[str, Any]:
        """What identifies it: the content of a local folder, else its name and revision; not where it is."""
        how = {"dtype": self.dtype} | ({"quantization": self.quantization} if self.quantization else {})
        if (files := _files(self.path)) is not None:
            return {"files": files, **how}
        return {"name": self.path, "revision": getattr(self.model.config, "_commit_hash", None), **how}

    def check(self, site: Site, context: int) -> None:
        """Raise a `NotAllowed` that lists what the model has, if it lacks the site or the context length."""
        check_site(site, context, self.path, self.n_layers, self.n_ctx)

    def check_finite(self, found: Tensor, what: str) -> None:
        """Raise a `NotAllowed` that says why, as far as can be told, if what the model gave is not finite."""
        if not found.isfinite().all():
            raise not_finite(what, self.model, self.path, self.dtype)

    @torch.no_grad()
    def prefix(self, tokens: Int64[Tensor, "block pos"], site: Site) -> Prefix:
        """Run the model up to the site.

        Raises:
            NotAllowed: NaN or infinity is among the activations.
        """
        self._placement.need(site.layers_read)
        prefix = Prefix(*(each.to(self.device) for each in self._cut.read(site, tokens)))
        self.check_finite(prefix.activation, f"its activations at {site.name}")
        return prefix

    @torch.no_grad()
    def suffix(
        self, activation: Float[Tensor, "row pos d"], resid: Float[Tensor, "row pos d"], site: Site
    ) -> Float[Tensor, "row pos d_vocab"]:
        """`splice` without gradients."""
        return self.splice(activation, resid, site)

    def splice(
        self, activation: Float[Tensor, "row pos d"], resid: Float[Tensor, "row pos d"], site: Site
    ) -> Float[Tensor, "row pos d_vocab"]:
        """Splice `activation` in at the site and run the model on to its logits, with its gradient.

        Args:
            activation: what stands at the site, in the model's units; rows are blocks under any condition.
            resid: `Prefix.resid` of the same rows; read only where a hook has to splice.
            site: of both.
        """
        self._placement.need()
        activation = activation.to(DTYPES[self.dtype])
        start = site.layer_entered(self.n_layers)
        if start is not None:
            return self._cut.run_from(start, activation).to(self.device)
        with self._cut.spliced(site, activation):
            return self._cut.run_from(site.layer, resid).to(self.device)

    @torch.no_grad()
    def logits(self, tokens: Int64[Tensor, "block pos"]) -> Float[Tensor, "block pos d_vocab"]:
        """The plain full run."""
        self._placement.need()
        return self.model(tokens.to(computes_on(self.model)), use_cache=False).logits.to(self.device)


def _files(path: str) -> dict[str, str] | None:
    """The files of a local folder by what is in them; None where there is no such folder."""
    folder = Path(path)
    if not folder.is_dir():
        return None
    files = sorted(p for p in folder.iterdir() if p.suffix in {".json", ".safetensors", ".bin"})
    return {p.name: file_hash(p) for p in files}
