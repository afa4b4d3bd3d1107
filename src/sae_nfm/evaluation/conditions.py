"""What an activation is replaced by: reconstructions of it, and baselines matched to a reconstruction."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sae_nfm.models.autoencoder import Parts


class Spliceable(NamedTuple):
    """A batch of blocks at the site, ready to be replaced."""

    x: Float[Tensor, "block pos d_model"]
    """The model's own activations, in float32 or wider."""
    parts: Parts
    blocks: Int64[Tensor, " block"]
    """Number of every block in the split: what random draws are seeded by."""
    seed: int


class Reconstruction(Protocol):
    """Makes a replacement from the activation and its parts alone."""

    def __call__(self, batch: Spliceable) -> Float[Tensor, "block pos d_model"]:
        """The replacement of every position."""
        ...


class Baseline(Protocol):
    """Makes a replacement matched to a reconstruction."""

    random: bool
    """Whether it is drawn several times."""

    def __call__(
        self, batch: Spliceable, reconstruction: Float[Tensor, "block pos d_model"], draw: int
    ) -> Float[Tensor, "block pos d_model"]:
        """The replacement of every position, for one draw."""
        ...


class FromParts:
    """The SAE's reconstruction plus some of the NFM's parts.

    Args:
        add: `linear`, `interaction`, both or none of them.
    """

    def __init__(self, add: Sequence[Literal["linear", "interaction"]]) -> None:
        self.add = tuple(add)

    def __call__(self, batch: Spliceable) -> Float[Tensor, "block pos d_model"]:
        """x̂ and the parts asked for."""
        out = batch.parts.sae
        for name in self.add:
            part = getattr(batch.parts, name)
            assert part is not None
            out = out + part
        return out


class Eps:
    """A uniformly random direction at the reconstruction's own distance ‖R − x‖, token by token (Gurnee 2024)."""

    random = True

    def __call__(
        self, batch: Spliceable, reconstruction: Float[Tensor, "block pos d_model"], draw: int
    ) -> Float[Tensor, "block pos d_model"]:
        """x + ‖R − x‖ u with u uniform on the sphere."""
        return batch.x + at_distance(normal_like(batch, "eps", draw), reconstruction - batch.x)


def at_distance(
    direction: Float[Tensor, "block pos d_model"], error: Float[Tensor, "block pos d_model"]
) -> Float[Tensor, "block pos d_model"]:
    """`direction` rescaled to the error's norm at every token."""
    return direction * (error.norm(dim=-1, keepdim=True) / direction.norm(dim=-1, keepdim=True).clamp_min(1e-30))


def normal_like(batch: Spliceable, name: str, draw: int) -> Float[Tensor, "block pos d_model"]:
    """Standard normal numbers of the batch's shape, seeded by study, name, draw and block.

    They depend neither on the batch a block is in nor on the process, and all reconstructions share them, so
    that a comparison of two of them is not blurred by different draws.
    """
    return _by_block(batch, name, draw, lambda generator: torch.randn(
        batch.x.shape[1:], generator=generator, device=batch.x.device, dtype=batch.x.dtype
    ))  # fmt: skip


def _by_block(
    batch: Spliceable, name: str, draw: int, make: Callable[[torch.Generator], Tensor]
) -> Float[Tensor, "block ..."]:
    out = []
    for block in batch.blocks.tolist():
        text = f"{batch.seed}/{name}/{draw}/{block}".encode()
        seed = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)
        out.append(make(torch.Generator(batch.x.device).manual_seed(seed)))
    return torch.stack(out)
