"""Replacements matched to a reconstruction R: what would an error of this size do, if it were not R's own?

Every random draw is seeded by study, baseline, draw and block. It depends neither on the batch that a block
is in nor on the process, and all reconstructions share it, so that no comparison of two is blurred by it.
"""

import hashlib
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from sae_nfm.baselines.spliceable import Spliceable
from sae_nfm.settings.values import checked


class Target(NamedTuple):
    """The reconstruction that a baseline is matched to."""

    reconstruction: Float[Tensor, "block pos d_model"]
    bank_error: Float[Tensor, "bank d_model"] | None
    """R − x on the bank's activations; None where no baseline asks."""


class Baseline(Protocol):
    """Makes a replacement matched to a reconstruction."""

    random: bool
    """Whether it is drawn several times."""
    needs: Literal["nothing", "surroundings", "bank_error"]
    """What it asks for beside the batch."""

    def __call__(self, batch: Spliceable, target: Target, draw: int) -> Float[Tensor, "block pos d_model"]:
        """The replacement of every position, for one draw."""
        ...


class Eps:
    """A uniformly random direction at R's own distance ‖R − x‖, token by token (Gurnee 2024)."""

    random, needs = True, "nothing"

    def __call__(self, batch: Spliceable, target: Target, draw: int) -> Float[Tensor, "block pos d_model"]:
        """x + ‖R − x‖ u with u uniform on the sphere."""
        return batch.x + at_distance(normal(batch, "eps", draw), target.reconstruction - batch.x)


@checked
class Theta:
    """x turned by R's angle to it, in a uniformly random direction (Gurnee 2024).

    Args:
        norm: the result's norm, that of `x` or of the `reconstruction`.
    """

    random, needs = True, "nothing"

    def __init__(self, norm: Literal["x", "reconstruction"]) -> None:
        self.norm = norm

    def __call__(self, batch: Spliceable, target: Target, draw: int) -> Float[Tensor, "block pos d_model"]:
        """‖·‖ (cos θ x/‖x‖ + sin θ u) with u uniform among the unit vectors orthogonal to x."""
        along = _unit(batch.x)
        noise = normal(batch, "theta", draw)
        across = _unit(noise - _dot(noise, along) * along)
        cosine = _dot(_unit(target.reconstruction), along).clamp(-1, 1)
        norm = _norm(batch.x if self.norm == "x" else target.reconstruction)
        return norm * (cosine * along + (1 - cosine**2).sqrt() * across)


class Cov:
    """The difference of two draws from N(μ, Σ) of the activations, rescaled to R's distance.

    The covariance-matched ε of Lee & Heimersheim (2024, arXiv 2410.12555).
    """

    random, needs = True, "surroundings"

    def __call__(self, batch: Spliceable, target: Target, draw: int) -> Float[Tensor, "block pos d_model"]:
        """x + ‖R − x‖ · unit(L z), z standard normal: the mean cancels and the scale is R's."""
        assert batch.surroundings is not None
        noise = normal(batch, "cov", draw) @ batch.surroundings.factor.T.to(batch.x.dtype)
        return batch.x + at_distance(noise, target.reconstruction - batch.x)


class Real:
    """The difference of two real activations, rescaled to R's distance (Lee & Heimersheim 2024)."""

    random, needs = True, "surroundings"

    def __call__(self, batch: Spliceable, target: Target, draw: int) -> Float[Tensor, "block pos d_model"]:
        """x + ‖R − x‖ · unit(a − b) for two activations a ≠ b of the bank."""
        assert batch.surroundings is not None
        bank = batch.surroundings.bank
        first = choice(batch, "real", draw, len(bank))
        step = 1 + choice(batch, "real step", draw, len(bank) - 1)
        difference = bank[first] - bank[(first + step) % len(bank)]
        return batch.x + at_distance(difference, target.reconstruction - batch.x)


class Permuted:
    """R's own error at another position of another document, as it is: not rescaled."""

    random, needs = True, "bank_error"

    def __call__(self, batch: Spliceable, target: Target, draw: int) -> Float[Tensor, "block pos d_model"]:
        """x plus the error that R makes on a random activation of the bank."""
        assert target.bank_error is not None
        return batch.x + target.bank_error[choice(batch, "permuted", draw, len(target.bank_error))]


class NormOnly:
    """x at R's norm: what the shrinkage of R does by itself (Gurnee 2024)."""

    random, needs = False, "nothing"

    def __call__(self, batch: Spliceable, target: Target, draw: int) -> Float[Tensor, "block pos d_model"]:
        """x ‖R‖ / ‖x‖."""
        return _unit(batch.x) * _norm(target.reconstruction)


class NormCorrected:
    """R at x's norm: R without its shrinkage (Gurnee 2024)."""

    random, needs = False, "nothing"

    def __call__(self, batch: Spliceable, target: Target, draw: int) -> Float[Tensor, "block pos d_model"]:
        """R ‖x‖ / ‖R‖."""
        return _unit(target.reconstruction) * _norm(batch.x)


def at_distance(
    direction: Float[Tensor, "block pos d_model"], error: Float[Tensor, "block pos d_model"]
) -> Float[Tensor, "block pos d_model"]:
    """`direction` rescaled to the error's norm at every token."""
    return _unit(direction) * _norm(error)


def normal(batch: Spliceable, name: str, draw: int) -> Float[Tensor, "block pos d_model"]:
    """Standard normal numbers of the batch's shape, drawn when they are first asked for."""
    shape, like, key = batch.x.shape[1:], batch.x, (batch.seed, name, draw, batch.x.dtype)
    if key not in batch.drawn:
        batch.drawn[key] = _by_block(
            batch, name, draw, lambda g: torch.randn(shape, generator=g, device=like.device, dtype=like.dtype)
        )
    return batch.drawn[key]


def choice(batch: Spliceable, name: str, draw: int, num: int) -> Tensor:
    """For every token a whole number below `num`."""
    shape, device = batch.x.shape[1:2], batch.x.device
    return _by_block(batch, name, draw, lambda g: torch.randint(num, shape, generator=g, device=device))


def _by_block(batch: Spliceable, name: str, draw: int, make: Callable[[torch.Generator], Tensor]) -> Tensor:
    out = []
    for block in batch.blocks.tolist():
        text = f"{batch.seed}/{name}/{draw}/{block}".encode()
        seed = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)
        out.append(make(torch.Generator(batch.x.device).manual_seed(seed)))
    return torch.stack(out)


def _norm(x: Float[Tensor, "... d"]) -> Float[Tensor, "... 1"]:
    return x.norm(dim=-1, keepdim=True)


def _unit(x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
    return x / _norm(x).clamp_min(1e-30)


def _dot(x: Float[Tensor, "... d"], y: Float[Tensor, "... d"]) -> Float[Tensor, "... 1"]:
    return torch.linalg.vecdot(x, y).unsqueeze(-1)
