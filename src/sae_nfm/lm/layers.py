"""Other modules in the place of layers: some hand on what they get, some keep nothing but their input."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformer_lens.model_bridge import TransformerBridge
from transformers.activations import NewGELUActivation


@contextmanager
def passing_through(bridge: TransformerBridge, num_layers: int, returns_tuple: bool) -> Iterator[None]:
    """Have the first layers hand on what they get, so that a suffix computes its own alone.

    The bridge's `start_at_layer` alone computes them and throws the result away.

    Args:
        bridge: the model.
        num_layers: how many.
        returns_tuple: whether this architecture's layers return the residual stream in a tuple.
    """
    with _replaced(bridge, range(num_layers), lambda _, layer: _PassThrough(layer, returns_tuple)):
        yield


@contextmanager
def computed_again(bridge: TransformerBridge, layers: Iterable[int]) -> Iterator[None]:
    """Have layers keep their input alone for the backward pass, which computes the rest of them again.

    Their activations are to be fused (`fused_gelu`), the first time as the second.
    """
    with _replaced(bridge, layers, _Checkpointed):
        yield


@contextmanager
def fused_gelu(model: nn.Module) -> Iterator[None]:
    """Have the tanh approximation of GELU, which `transformers` writes out, computed in one operation.

    It is the same but for rounding, in a third of the time, and keeps one tensor for the backward pass.
    """
    found = [
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, NewGELUActivation)
    ]
    plain = [getattr(parent, name) for parent, name in found]
    for parent, name in found:
        setattr(parent, name, nn.GELU(approximate="tanh"))
    try:
        yield
    finally:
        for (parent, name), activation in zip(found, plain, strict=True):
            setattr(parent, name, activation)


def layers_return_tuples(bridge: TransformerBridge, device: torch.device) -> bool:
    """Whether this architecture's layers return the residual stream in a tuple."""
    found: list[bool] = []
    handle = bridge.blocks[0].register_forward_hook(
        lambda module, args, output: found.append(isinstance(output, tuple))
    )
    with handle:
        bridge(torch.zeros(1, 1, dtype=torch.int64, device=device), stop_at_layer=1)
    return found[0]


@contextmanager
def _replaced(
    bridge: TransformerBridge, numbers: Iterable[int], make: Callable[[int, nn.Module], nn.Module]
) -> Iterator[None]:
    layers = bridge.blocks
    replaced = {number: layers[number] for number in numbers}
    for number, layer in replaced.items():
        layers[number] = make(number, layer)
    try:
        yield
    finally:
        for number, layer in replaced.items():
            layers[number] = layer


class _StandIn(nn.Module):
    """Stands where a layer does; its attributes are the layer's."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self._layer = [layer]  # in a list: no submodule

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_layer"][0], name)


class _PassThrough(_StandIn):
    """Computes nothing."""

    def __init__(self, layer: nn.Module, returns_tuple: bool) -> None:
        super().__init__(layer)
        self._returns_tuple = returns_tuple

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor | tuple[Tensor]:
        """What came in, in the form that the layer returns."""
        return (hidden_states,) if self._returns_tuple else hidden_states


class _Checkpointed(_StandIn):
    """Computes the layer, and again in the backward pass.

    Where the bridge enters the model at this layer, it leaves the residual stream as an attribute, and takes
    it away before the backward pass.
    """

    _start_at_layer_idx: int | None = None
    _start_residual: Tensor | None = None

    def __init__(self, number: int, layer: nn.Module) -> None:
        super().__init__(layer)
        self._number = number

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """What the layer returns."""
        if self._start_at_layer_idx == self._number and self._start_residual is not None:
            hidden_states = self._start_residual
        (layer,) = self._layer

        def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
            return nullcontext(), fused_gelu(layer)  # the second time nobody else sees to that

        again = {"use_reentrant": False, "context_fn": contexts}
        return checkpoint(layer, hidden_states, *args, **again, **kwargs)
