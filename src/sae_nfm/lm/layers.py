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
def computed_again(
    bridge: TransformerBridge, layers: Iterable[int], again: Callable[[], AbstractContextManager[None]]
) -> Iterator[None]:
    """Have layers keep their input alone for the backward pass, which computes the rest of them again.

    Args:
        bridge: the model.
        layers: their numbers.
        again: what the model computes in, the first time as the second, when nobody else sees to that.
    """
    with _replaced(bridge, layers, lambda number, layer: _Checkpointed(number, layer, again)):
        yield


class FusedGELU:
    """The tanh approximation of GELU, which `transformers` writes out, computed in one operation.

    It is the same but for rounding, in a third of the time, and keeps one tensor for the backward pass.

    Args:
        model: that may have such activations.
    """

    def __init__(self, model: nn.Module) -> None:
        self.found = [
            (parent, name, child)
            for parent in model.modules()
            for name, child in parent.named_children()
            if isinstance(child, NewGELUActivation)
        ]

    @contextmanager
    def used(self) -> Iterator[None]:
        """Have the model use it for a while."""
        for parent, name, _ in self.found:
            setattr(parent, name, nn.GELU(approximate="tanh"))
        try:
            yield
        finally:
            for parent, name, plain in self.found:
                setattr(parent, name, plain)


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

    def __init__(
        self, number: int, layer: nn.Module, again: Callable[[], AbstractContextManager[None]]
    ) -> None:
        super().__init__(layer)
        self._number, self._again = number, again

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """What the layer returns."""
        if self._start_at_layer_idx == self._number and self._start_residual is not None:
            hidden_states = self._start_residual
        how = {"use_reentrant": False, "context_fn": lambda: (nullcontext(), self._again())}
        return checkpoint(self._layer[0], hidden_states, *args, **how, **kwargs)
