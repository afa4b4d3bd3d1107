"""From the site to the unembedding, with gradients in the activation and none in the frozen weights.

The logits are left to whoever asks: they are the largest thing in a training step, and can be made of some
tokens at a time (`Passage.logits`).
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from sae_nfm.lm.checks import are_close
from sae_nfm.lm.cut import as_it_is
from sae_nfm.lm.layers import computed_again
from sae_nfm.lm.model import LanguageModel
from sae_nfm.lm.placement import computes_on
from sae_nfm.lm.site import Prefix, Site
from sae_nfm.settings.values import NotAllowed


class Reached(NamedTuple):
    """What a run of the suffix reaches; every field has the gradient of the spliced activation."""

    final: Float[Tensor, "block pos d_model"]
    """What the unembedding reads."""
    streams: Float[Tensor, "layer block pos d_model"]
    """The residual stream after every layer behind the site; no layer where nobody asks."""


class Passage:
    """The layers behind a site.

    Args:
        lm: the model.
        site: where activations are spliced in.
        streams: whether the residual streams of the layers are kept.
        checkpointing: whether what is inside a layer is computed again in the backward pass and not kept.

    Raises:
        NotAllowed: streams are asked for, and there is no layer behind the site.
    """

    def __init__(
        self, lm: LanguageModel, site: Site, streams: bool = False, checkpointing: bool = False
    ) -> None:
        self.lm, self.site, self.streams, self.checkpointing = lm, site, streams, checkpointing
        self.identity = (id(lm), site, streams)
        """What distinguishes it in a process."""
        entered = site.layer_entered(lm.n_layers)
        self.behind = range(site.layer + 1 if entered is None else entered, lm.n_layers)
        """The layers that read what was spliced in."""
        if streams and not self.behind:
            allowed = f"layers below {lm.n_layers - 1}, the last of {lm.path}, where later ones are compared"
            raise NotAllowed("layer", site.layer, allowed)

    def prefix(self, tokens: Int64[Tensor, "block pos"]) -> Prefix:
        """The model up to the site."""
        return self.lm.prefix(tokens, self.site)

    def __call__(
        self, activation: Float[Tensor, "block pos d_model"], resid: Float[Tensor, "block pos d_model"]
    ) -> Reached:
        """Splice an activation in, and run the model up to its unembedding.

        Args:
            activation: what stands at the site, in the model's units.
            resid: `Prefix.resid` of the same blocks.
        """
        streams: list[Tensor] = []
        with ExitStack() as stack:
            if self.streams:
                stack.enter_context(_kept(self.lm.layers, self.behind, streams))
            if self.checkpointing and activation.requires_grad:
                stack.enter_context(computed_again(self.lm.layers, self.behind))
            final = self._final(activation, resid)
        streams = [each.to(final.device) for each in streams]  # which a model on several devices has there
        return Reached(final, torch.stack(streams) if streams else final.new_zeros(0, *final.shape))

    def logits(self, final: Float[Tensor, "*token d_model"]) -> Float[Tensor, "*token d_vocab"]:
        """The logits of what the unembedding reads, in float32 or wider."""
        unembed = self.lm.unembed
        device = computes_on(unembed)
        with as_it_is(device):
            logits = unembed(final.to(device)).to(final.device)
        cap = getattr(self.lm.model.config, "final_logit_softcapping", None)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return logits if not cap else cap * torch.tanh(logits / cap)

    @torch.no_grad()
    def check(self, prefix: Prefix) -> None:
        """See whether the logits made here are the model's own.

        Raises:
            NotAllowed: the model does something to its logits that is not known here.
        """
        whole = self.lm.suffix(prefix.activation, prefix.resid, self.site)
        mine = self.logits(self(prefix.activation, prefix.resid).final)
        if not are_close(mine, whole):
            architecture = type(self.lm.model).__name__
            allowed = "models whose logits are their unembedding's, or capped by final_logit_softcapping"
            raise NotAllowed("lm.path", self.lm.path, allowed, f"the logits of {architecture} are others")

    def _final(self, activation: Tensor, resid: Tensor) -> Tensor:
        with _stopping(self.lm.unembed) as read, suppress(_AtUnembedding):
            self.lm.splice(activation, resid, self.site)
        return read[0].to(self.lm.device)


class _AtUnembedding(Exception):
    """The model has come as far as it has to."""


@contextmanager
def _stopping(unembedding: nn.Module) -> Iterator[list[Tensor]]:
    """Keep what the unembedding reads, and go no further."""
    read: list[Tensor] = []

    def stop(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        read.append(args[0])
        raise _AtUnembedding

    with unembedding.register_forward_pre_hook(stop):
        yield read


@contextmanager
def _kept(layers: nn.ModuleList, numbers: range, streams: list[Tensor]) -> Iterator[None]:
    """Keep the residual stream after some layers."""

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        streams.append(output[0] if isinstance(output, tuple) else output)

    with ExitStack() as stack:
        for number in numbers:
            stack.enter_context(layers[number].register_forward_hook(keep))
        yield
