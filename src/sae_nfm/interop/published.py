"""What a file holds: a normaliser, an SAE of one of our families, and what the file claims of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.normalizer import Normalizer
from sae_nfm.models.saes.base import SparseAutoencoder
from sae_nfm.settings.values import NotAllowed


class Claims(NamedTuple):
    """What a file says of its SAE; None where it says nothing."""

    model: str | None = None
    layer: int | None = None
    hook: str | None = None
    """`resid_pre`, `resid_post`, `mlp_out` or `attn_out`."""
    context: int | None = None
    """Tokens of the blocks that it was trained on."""
    prepend_bos: bool | None = None
    l0: float | None = None
    explained_variance: float | None = None


class Published(NamedTuple):
    """An SAE that was read of files."""

    normalizer: Normalizer
    sae: SparseAutoencoder
    node: dict[str, Any]
    """The SAE's class as `_target_`, and its settings."""
    claims: Claims
    files: tuple[Path, ...]
    """All that was read, weights first."""
    warnings: tuple[str, ...] = ()
    about: Mapping[str, Any] = {}
    """The whole `config.json` of an artifact of ours; nothing of other formats."""

    @property
    def family(self) -> str:
        """`topk`, `jumprelu`, …: the name of the family's file."""
        return family_of(self.node["_target_"])

    @property
    def autoencoder(self) -> Autoencoder:
        """Normaliser and SAE as one."""
        return Autoencoder(self.normalizer, self.sae).eval()


def family_of(target: str) -> str:
    """The name of the file that a family's class is in."""
    return target.split(".")[-2]


def target_of(module: nn.Module | type) -> str:
    """A class as `_target_` names it."""
    cls = module if isinstance(module, type) else type(module)
    return f"{cls.__module__}.{cls.__qualname__}"


def make_sae(
    cls: type[SparseAutoencoder],
    settings: Mapping[str, Any],
    state: Mapping[str, Tensor],
    file: Path,
    subtracts_b_dec: bool = True,
) -> tuple[SparseAutoencoder, dict[str, Any]]:
    """An SAE with given weights, in float32 or wider, and its node.

    Args:
        cls: its family.
        settings: of its constructor.
        state: its tensors, by our names.
        file: they are of, for errors.
        subtracts_b_dec: whether its encoder reads x − b_dec.
    """
    sae = with_state(cls, settings, state, file)
    sae.subtracts_b_dec = subtracts_b_dec
    return sae, {"_target_": target_of(cls), **settings}


def with_state(cls: type, settings: Mapping[str, Any], state: Mapping[str, Tensor], file: Path) -> Any:
    """A module of a class with given weights, in eval mode.

    Raises:
        NotAllowed: a setting is not allowed; a tensor is missing, is one too many, or has another shape.
    """
    with torch.device("meta"):  # no random weights first: they may be gigabytes
        module = _made(cls, settings, file.parent)
    expected = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
    for name in sorted(expected.keys() | state.keys()):
        found = list(state[name].shape) if name in state else "nothing"
        if found != expected.get(name):
            raise NotAllowed(name, found, str(expected.get(name, "nothing")), f"in {file}")
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in state.values()) else torch.float32
    floats = {name: t.to(dtype) if t.is_floating_point() else t for name, t in state.items()}
    module.load_state_dict(_apart({name: t.contiguous() for name, t in floats.items()}), assign=True)
    return module.eval()


def _apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, none of which is another's memory, as tied weights would be."""
    seen: set[int] = set()
    out = {}
    for name, tensor in state.items():
        out[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return out


def _made(cls: type, settings: Mapping[str, Any], folder: Path) -> Any:
    try:
        return cls(**settings)
    except NotAllowed as error:
        because = f"in {folder}" + (error.because and f": {error.because}")
        raise NotAllowed(error.setting, error.value, error.allowed, because) from error
    except TypeError as error:
        allowed = "classes that take the settings beside them"
        raise NotAllowed("_target_", target_of(cls), allowed, f"in {folder}: {error}") from error
