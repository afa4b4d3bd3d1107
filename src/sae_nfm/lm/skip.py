"""Layers that hand on what they get, so that a suffix computes its own alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge


@contextmanager
def passing_through(bridge: TransformerBridge, num_layers: int, returns_tuple: bool) -> Iterator[None]:
    """Have the first layers hand on what they get.

    The bridge's `start_at_layer` alone computes them and throws the result away.

    Args:
        bridge: the model.
        num_layers: how many.
        returns_tuple: whether this architecture's layers return the residual stream in a tuple.
    """
    layers = bridge.blocks
    skipped = list(layers[:num_layers])
    for number, layer in enumerate(skipped):
        layers[number] = _PassThrough(layer, returns_tuple)
    try:
        yield
    finally:
        for number, layer in enumerate(skipped):
            layers[number] = layer


def layers_return_tuples(bridge: TransformerBridge, device: torch.device) -> bool:
    """Whether this architecture's layers return the residual stream in a tuple."""
    found: list[bool] = []
    handle = bridge.blocks[0].register_forward_hook(
        lambda module, args, output: found.append(isinstance(output, tuple))
    )
    with handle:
        bridge(torch.zeros(1, 1, dtype=torch.int64, device=device), stop_at_layer=1)
    return found[0]


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
