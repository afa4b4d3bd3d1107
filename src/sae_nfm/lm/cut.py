"""The layers of a model, and how a run of it ends before them or begins between them."""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

from sae_nfm.lm.layers import entered
from sae_nfm.lm.placement import computes_on
from sae_nfm.lm.site import Prefix, Site


class Cut:
    """Runs parts of a model, by its own code.

    Args:
        model: frozen.
        bridge: of the same weights; it knows what the modules are called.

    Attributes:
        layers: of the model.
        unembed: makes the logits.
    """

    def __init__(self, model: PreTrainedModel, bridge: TransformerBridge) -> None:
        self.model, self.bridge = model, bridge
        layers = model.get_submodule(_name_of(bridge.blocks[0]).removesuffix(".0"))
        assert isinstance(layers, nn.ModuleList)
        self.layers = layers
        self.unembed = model.get_submodule(_name_of(bridge.unembed))
        blank = next(model.parameters()).is_meta  # such a model is not run
        self._returns_tuple = not blank and self._returns_tuples()

    def read(self, site: Site, tokens: Int64[Tensor, "block pos"]) -> Prefix:
        """Run the model up to a site."""
        if site.hook == "resid_pre":
            resid = self._input_of(site.layer, tokens)
            return Prefix(resid, resid)
        read: list[Tensor] = []
        with self._changed(site, lambda output: read.append(_first(output))):
            resid = self._input_of(site.layer, tokens, compute=True)
        entered_next = site.layer_entered(len(self.layers)) is not None
        return Prefix(activation=read[0], resid=read[0] if entered_next else resid)

    def _input_of(
        self, layer: int, tokens: Int64[Tensor, "block pos"], compute: bool = False
    ) -> Float[Tensor, "block pos d_model"]:
        """What a layer gets; with `compute`, the layer is run too. The model goes no further."""
        read: list[Tensor] = []

        def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            read.append(args[0])
            if not compute:
                raise _FarEnough

        def stop(module: nn.Module, args: Any, output: Any) -> None:
            raise _FarEnough

        with ExitStack() as hooks, suppress(_FarEnough):
            hooks.enter_context(self.layers[layer].register_forward_pre_hook(keep))
            if compute:
                hooks.enter_context(self.layers[layer].register_forward_hook(stop))
            self._run(tokens)
        return read[0]

    def _changed(self, site: Site, change: Callable[[Any], Any]) -> RemovableHandle:
        """Show the output at a site, as its module returns it; what is not None goes on in its place."""
        module: nn.Module = self.layers[site.layer]
        if not site.hook.startswith("resid"):
            block: Any = self.bridge.blocks[site.layer]
            path = block.hook_aliases[f"hook_{site.hook}"].removesuffix(".hook_out")
            module = module.get_submodule(_name_of(block.get_submodule(path)))
        return module.register_forward_hook(lambda module, args, output: change(output))

    def spliced(self, site: Site, activation: Float[Tensor, "row pos d_model"]) -> RemovableHandle:
        """Put an activation in at a site whose layer is run."""
        return self._changed(site, lambda output: _instead(output, activation))

    def run_from(self, layer: int, resid: Float[Tensor, "row pos d_model"]) -> Tensor:
        """The logits of rows that enter a layer; tokens that nobody reads say where they stand."""
        tokens = torch.zeros(resid.shape[:2], dtype=torch.int64)
        with entered(self.layers, layer, resid.to(computes_on(self.layers[layer])), self._returns_tuple):
            return self._run(tokens).logits

    def _run(self, tokens: Int64[Tensor, "block pos"]) -> Any:
        device = computes_on(self.model)
        with as_it_is(device):
            return self.model(tokens.to(device), use_cache=False)

    def _returns_tuples(self) -> bool:
        """Whether this architecture's layers return the residual stream in a tuple."""
        found: list[Any] = []

        def stop(module: nn.Module, args: Any, output: Any) -> None:
            found.append(output)
            raise _FarEnough

        with self.layers[0].register_forward_hook(stop), suppress(_FarEnough):
            self._run(torch.zeros(1, 1, dtype=torch.int64))
        return isinstance(found[0], tuple)


def as_it_is(device: torch.device) -> torch.autocast:
    """No autocast of a trainer's: what is measured, and trained through, is the model in its own type."""
    return torch.autocast(device.type, enabled=False)


class _FarEnough(Exception):
    """The model has come as far as it has to."""


def _name_of(component: nn.Module) -> str:
    """What a component of the bridge is called in the model."""
    name = getattr(component, "name", None)
    assert isinstance(name, str)
    return name


def _first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _instead(output: Tensor | tuple[Any, ...], activation: Tensor) -> Tensor | tuple[Any, ...]:
    activation = activation.to(_first(output).device)
    return (activation, *output[1:]) if isinstance(output, tuple) else activation
