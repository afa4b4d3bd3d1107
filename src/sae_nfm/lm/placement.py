"""Which of a model's weights are on the device that computes; the others wait on the host."""

import torch
from torch import Tensor, nn

from sae_nfm.lm.loading import Loading


class Placement:
    """Where the weights of a model are, all of them on one device at most.

    Args:
        model: the model, on its host.
        layers: of the model, in the order in which they compute.
        unembed: makes the logits.
        host: where the weights wait that nobody needs.
    """

    def __init__(
        self, model: nn.Module, layers: nn.ModuleList, unembed: nn.Module, host: torch.device | str = "cpu"
    ) -> None:
        self.model, self.unembed, self.host = model, unembed, torch.device(host)
        self.layers = list(layers)  # which may have others in their places while they compute
        self.device = next(model.parameters()).device
        self._whole = len(self.layers) + 1
        self._num = self._whole

    def put(self, device: torch.device | str, num_layers: int | None = None) -> None:
        """Have the first layers, with all but the unembedding, on a device, and the rest on the host.

        Args:
            device: that computes.
            num_layers: that are needed; None is the whole model, its unembedding included.
        """
        self.device, num = torch.device(device), self._whole if num_layers is None else num_layers
        behind: set[nn.Module] = {*self.layers[num:], *([] if num == self._whole else [self.unembed])}
        _move(self.model, self.device, behind)
        kept = {id(weight) for weight in _weights(self.model, behind)}  # of two modules, as tied ones are
        for module in behind:
            _move_weights(module, self.host, kept)
        self._num = num

    def need(self, num_layers: int | None = None) -> None:
        """Bring what is needed to the device, where it is not there yet; nothing leaves it."""
        num = self._whole if num_layers is None else num_layers
        if num > self._num:
            self.put(self.device, num_layers)


class Spread:
    """The same of a model that has its place once and for all, on as many devices as it is on.

    Args:
        model: the model, which takes what it is given to where its parts are.
    """

    def __init__(self, model: nn.Module) -> None:
        self.device = computes_on(model)

    def put(self, device: torch.device | str, num_layers: int | None = None) -> None:
        """Have what the model gives on a device; the model stays."""
        self.device = torch.device(device)

    def need(self, num_layers: int | None = None) -> None:
        """All of it is where it computes."""


class Nowhere:
    """The same of a model that has shapes alone."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def put(self, device: torch.device | str, num_layers: int | None = None) -> None:
        """Say where it would be."""
        self.device = torch.device(device)

    def need(self, num_layers: int | None = None) -> None:
        """It cannot be run."""


def placed(
    loading: Loading, model: nn.Module, layers: nn.ModuleList, unembed: nn.Module
) -> Placement | Spread | Nowhere:
    """Where the weights of a model are that is loaded so."""
    if loading.blank:
        return Nowhere()
    return Placement(model, layers, unembed) if loading.is_plain else Spread(model)


def computes_on(module: nn.Module) -> torch.device:
    """The device that a module computes on, though its weights may wait elsewhere until then."""
    device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    if device is not None:
        return torch.device(device)
    found = (weight.device for weight in module.parameters() if not weight.is_meta)
    return next(found, torch.device("cpu"))


def _move(module: nn.Module, device: torch.device, but: set[nn.Module]) -> None:
    """Move a module, without some that are in it."""
    if module not in but:
        module._apply(lambda weight: weight.to(device), recurse=False)
        for child in module.children():
            _move(child, device, but)


def _weights(module: nn.Module, but: set[nn.Module]) -> list[Tensor]:
    """The parameters of a module, without those of some that are in it."""
    if module in but:
        return []
    of_children = [weight for child in module.children() for weight in _weights(child, but)]
    return [*module.parameters(recurse=False), *of_children]


def _move_weights(module: nn.Module, device: torch.device, but: set[int]) -> None:
    """Move a module; parameters that are needed elsewhere too stay where they are."""
    for each in module.modules():
        shared = any(id(weight) in but for weight in each.parameters(recurse=False))
        if not shared:
            each._apply(lambda weight: weight.to(device), recurse=False)
