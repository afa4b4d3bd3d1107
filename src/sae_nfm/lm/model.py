"""The frozen language model, cut at one site: tokens → prefix → activation → (spliced) → suffix → logits."""

from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from sae_nfm.lm.cut import Cut
from sae_nfm.lm.load import boot
from sae_nfm.lm.site import HOOKS, Prefix, Site
from sae_nfm.settings.values import NotAllowed, checked
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
        blank: whether it has shapes alone, as for a plan; it cannot be run.
    """

    def __init__(self, path: str, dtype: Dtype, checkpointing: bool = False, blank: bool = False) -> None:
        self.path, self.dtype, self.checkpointing, self.blank = path, dtype, checkpointing, blank
        self.model, self.bridge = boot(path, DTYPES[dtype], blank)
        self._planned_on = torch.device("cpu")
        for each in (self.model, self.bridge):
            each.eval().requires_grad_(False)
        self._cut = Cut(self.model, self.bridge)
        self.layers, self.unembed = self._cut.layers, self._cut.unembed
        cfg = self.bridge.cfg
        self.n_layers: int = cfg.n_layers
        self.d_model: int = cfg.d_model
        self.d_vocab, self.n_ctx = int(cfg.d_vocab), int(cfg.n_ctx)

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The model's own tokenizer."""
        return self.bridge.tokenizer

    def to(self, device: torch.device | str) -> "LanguageModel":
        """Move the weights to `device`."""
        if self.blank:
            self._planned_on = torch.device(device)
        elif torch.device(device) != self.device:
            for each in (self.model, self.bridge):
                nn.Module.to(each, device)
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are or, of a blank one, would be."""
        return self._planned_on if self.blank else next(self.model.parameters()).device

    def signature(self) -> dict[str, Any]:
        """What identifies it: the content of a local folder, else its name and revision."""
        folder = Path(self.path)
        if not folder.is_dir():
            revision = getattr(self.model.config, "_commit_hash", None)
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
        why = _broken_weight(self.model) or f"lm.dtype={self.dtype} is too narrow"
        allowed = "models, in a dtype, whose activations and logits are finite"
        raise NotAllowed("lm.path", self.path, allowed, f"{what} hold NaN or infinity, because {why}")

    @torch.no_grad()
    def prefix(self, tokens: Int64[Tensor, "block pos"], site: Site) -> Prefix:
        """Run the model up to the site.

        Raises:
            NotAllowed: NaN or infinity is among the activations.
        """
        prefix = self._cut.read(site, tokens.to(self.device))
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
        activation = activation.to(DTYPES[self.dtype])
        start = site.layer_entered(self.n_layers)
        if start is not None:
            return self._cut.run_from(start, activation)
        with self._cut.spliced(site, activation):
            return self._cut.run_from(site.layer, resid)

    @torch.no_grad()
    def logits(self, tokens: Int64[Tensor, "block pos"]) -> Float[Tensor, "block pos d_vocab"]:
        """The plain full run."""
        return self.model(tokens.to(self.device), use_cache=False).logits


def _broken_weight(model: nn.Module) -> str | None:
    """What is wrong with the first weight that is not finite."""
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            return f"its weight {name} is not finite"
    return None
