"""Other modules in the place of a model's layers: some hand on what they get, some begin elsewhere."""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.activations import NewGELUActivation


@contextmanager
def entered(layers: nn.ModuleList, number: int, resid: Tensor, returns_tuple: bool) -> Iterator[None]:
    """Have a model begin at a layer, so that a suffix computes its own layers alone.

    Args:
        layers: of the model.
        number: of the first layer that computes.
        resid: what it gets.
        returns_tuple: whether this architecture's layers return the residual stream in a tuple.
    """

    def make(each: int, layer: nn.Module) -> nn.Module:
        return _Entered(layer, resid) if each == number else _PassThrough(layer, returns_tuple)

    with _replaced(layers, range(number + 1), make):
        yield


@contextmanager
def computed_again(layers: nn.ModuleList, numbers: Iterable[int]) -> Iterator[None]:
    """Have layers keep their input alone for the backward pass, which computes the rest of them again.

    Args:
        layers: of the model.
        numbers: of those that do.
    """
    with _replaced(layers, numbers, lambda _, layer: _Checkpointed(layer)):
        yield


def fuse_gelu(model: nn.Module) -> None:
    """Have the tanh approximation of GELU, which `transformers` writes out, computed in one operation.

    It is the same but for rounding, in a third of the time, and keeps one tensor for the backward pass.
    """
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(parent, name, nn.GELU(approximate="tanh"))


def fuse_rms_norms(model: nn.Module) -> None:
    """Have x / rms(x) · weight, which `transformers` writes out in six operations, computed in one.

    Modules that compute something else stay, as of float64 do, which `transformers` computes in float32,
    and those that are moved between devices as they are called.
    """
    for parent in model.modules():
        for name, child in parent.named_children():
            if _is_rms_norm(child):
                setattr(parent, name, _fused(child))


def _fused(norm: Any) -> nn.RMSNorm:
    fused = nn.RMSNorm(norm.weight.shape, eps=norm.variance_epsilon, device="meta")
    fused.weight = norm.weight
    return fused


def _is_rms_norm(norm: Any) -> bool:
    """Whether a module computes just that: some norms multiply by 1 + weight, or have no weight."""
    named = type(norm).__name__.endswith("RMSNorm") and hasattr(norm, "variance_epsilon")
    if not named or set(norm._parameters) != {"weight"} or hasattr(norm, "_hf_hook"):
        return False
    if norm.weight.dtype == torch.float64:
        return False
    narrow = copy.copy(norm)
    narrow._parameters = {"weight": nn.Parameter(torch.linspace(0.5, 2.0, 8), requires_grad=False)}
    x = torch.linspace(-1.0, 3.0, 8).unsqueeze(0)
    return torch.allclose(narrow(x), nn.functional.rms_norm(x, (8,), narrow.weight, norm.variance_epsilon))


@contextmanager
def _replaced(
    layers: nn.ModuleList, numbers: Iterable[int], make: Callable[[int, nn.Module], nn.Module]
) -> Iterator[None]:
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


class _Entered(_StandIn):
    """Computes the layer on something else than what comes."""

    def __init__(self, layer: nn.Module, resid: Tensor) -> None:
        super().__init__(layer)
        self._resid = [resid]

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """What the layer returns."""
        return self._layer[0](self._resid[0], *args, **kwargs)


class _Checkpointed(_StandIn):
    """Computes the layer, and again in the backward pass."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """What the layer returns."""
        return checkpoint(self._layer[0], hidden_states, *args, use_reentrant=False, **kwargs)
