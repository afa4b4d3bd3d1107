"""Interactions put there on purpose: the positive and the negative control of the whole instrument."""

import itertools
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from sae_nfm.models.codes import Codes
from sae_nfm.settings.values import Count, NonNegative, NotAllowed, Positive, checked

_STEP = 2.0**-11  # in the normaliser's units, where a coordinate's standard deviation is about 1
_MIX = (0x45D9F3B, 0x119DE1F3)  # multipliers of a 32-bit integer hash


@checked
class Plant(nn.Module):
    """Replaces an SAE's residual by one whose make-up is known.

    The activation becomes x' = W_dec f + b_dec + g·p(f) + s·ξ. The planted part p is Σ Π_(i∈T) f_i · u_T over
    a set of tuples T of latents (`pairs`, `triples`), Σ f_i · u_i over single latents (`linear`), or nothing
    (`none`); ξ is noise that nothing can explain. The SAE's codes f are those of the real activation.

    Args:
        kind: what is planted.
        num_tuples: size of the set.
        strength: energy of g·p as a multiple of the noise's.
        noise: energy of s·ξ as a fraction of the variance of W_dec f + b_dec.
    """

    tuples: Int64[Tensor, "tuple size"]
    directions: Float[Tensor, "tuple d_in"]
    gain: Float[Tensor, ""]
    noise_scale: Float[Tensor, ""]

    def __init__(
        self,
        kind: Literal["pairs", "triples", "linear", "none"],
        num_tuples: Count,
        strength: NonNegative,
        noise: Positive,
    ) -> None:
        super().__init__()
        sizes = {"pairs": 2, "triples": 3, "linear": 1, "none": 1}
        self.kind, self.size, self.num_tuples = kind, sizes[kind], num_tuples
        self.strength, self.noise = 0.0 if kind == "none" else strength, noise

    @property
    def has_interactions(self) -> bool:
        """Whether products of latents are planted."""
        return self.size > 1

    @torch.no_grad()
    def fit(self, codes: Codes, reconstruction: Float[Tensor, "token d_in"], d_sae: int, seed: int) -> None:
        """Choose the tuples among busy latents, and set the scales, on a sample."""
        generator = torch.Generator().manual_seed(seed)
        candidates = _tuples_that_fire(codes, d_sae, self.size)[: 4 * self.num_tuples]
        chosen = torch.randperm(len(candidates), generator=generator)[: self.num_tuples]
        d_in = reconstruction.shape[-1]
        directions = nn.functional.normalize(torch.randn(len(chosen), d_in, generator=generator), dim=1)
        directions = directions.to(reconstruction.dtype)
        self.register_buffer("tuples", candidates[chosen])
        self.register_buffer("directions", directions)
        energy = reconstruction.var(0).sum()
        self.register_buffer("noise_scale", (self.noise * energy / d_in).sqrt())
        planted = products(codes, self.tuples, d_sae)
        scale = planted.std(0).clamp_min(1e-6)
        self.directions /= scale.unsqueeze(1)  # every tuple carries the same energy
        planted_energy = (planted @ self.directions).var(0).sum()
        self.register_buffer("gain", (self.strength * self.noise * energy / planted_energy).sqrt())

    def shape_(self, d_in: int) -> None:
        """Take the shapes that `fit` would give, with nothing in them: as where a study is only planned."""
        self.register_buffer("tuples", torch.zeros(self.num_tuples, self.size, dtype=torch.int64))
        self.register_buffer("directions", torch.zeros(self.num_tuples, d_in))
        for name in ("gain", "noise_scale"):
            self.register_buffer(name, torch.zeros(()))

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take what `fit` set from a saved state."""
        for name, value in state.items():
            self.register_buffer(name, value)

    def planted(self, codes: Codes, d_sae: int) -> Float[Tensor, "... d_in"]:
        """g·p(f)."""
        return self.gain * (products(codes, self.tuples, d_sae) @ self.directions)

    def unexplained(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_in"]:
        """s·ξ: noise drawn from x itself, so that a token has the same in every batch and process.

        Every coordinate is cut into steps far smaller than an SAE's error, each with a normal number of its
        own. Between two steps ξ turns from one number to the next: an x that differs by rounding, as in
        another batch, has the same noise but for rounding.
        """
        place = x.detach().double() / _STEP
        below = place.floor()
        angle = (place - below) * (torch.pi / 2)
        turned = angle.cos() * _normal(below.long()) + angle.sin() * _normal(below.long() + 1)
        return self.noise_scale * turned.to(x.dtype)


def products(codes: Codes, tuples: Int64[Tensor, "tuple size"], d_sae: int) -> Float[Tensor, "... tuple"]:
    """Π_(i∈T) f_i for every tuple T of latents."""
    latents, position = tuples.unique(return_inverse=True)
    lookup = torch.full((d_sae,), len(latents), device=latents.device)
    lookup[latents] = torch.arange(len(latents), device=latents.device)
    few = Codes(codes.values, lookup[codes.indices]).dense(len(latents) + 1)
    return few[..., position].prod(-1)


def _tuples_that_fire(codes: Codes, d_sae: int, size: int, latents: int = 32, least: float = 0.01) -> Tensor:
    """Tuples of busy latents, the least predictable first, that fire together on at least 1% of the tokens.

    A tuple is predictable where a part of it rarely fires without the rest: its product is then nearly one of
    lower order, which a model of lower order would rightly find.
    """
    active = Codes((codes.values > 0).to(codes.values.dtype), codes.indices).dense(d_sae)
    rates = active.mean(0)
    usual = torch.where(rates < 0.5, rates, torch.zeros_like(rates))  # one that always fires adds no order
    chosen = usual.topk(min(latents, d_sae)).indices.sort().values
    busiest, names = active[:, chosen], chosen.tolist()
    places = range(len(names))
    parts = list(itertools.combinations(places, size - 1))
    products = torch.stack([busiest[:, list(part)].prod(1) for part in parts], dim=1)
    part_rates = dict(zip(parts, products.mean(0).tolist(), strict=True))
    rates_with = dict(zip(parts, (products.T @ busiest / len(busiest)).tolist(), strict=True))
    predictable = {
        tuple(names[i] for i in t): max(whole / part_rates[p] for p in itertools.combinations(t, size - 1))
        for t in itertools.combinations(places, size)
        if (whole := rates_with[t[:-1]][t[-1]]) >= least
    }
    if not predictable:
        kind = {1: "linear", 2: "pairs", 3: "triples"}[size]
        because = f"no {size} latents fire together on 1% of the tokens"
        raise NotAllowed("plant.kind", kind, "SAEs with such latents, as those of a larger sae.k", because)
    return torch.tensor(sorted(predictable, key=lambda t: predictable[t]))


def _normal(steps: Int64[Tensor, "... d_in"]) -> Float[Tensor, "... d_in"]:
    """A standard normal number for every step of every coordinate."""
    place = torch.arange(steps.shape[-1], device=steps.device) + 1
    uniform = [
        (_hash((steps + place * 0x9E3779B1 + salt) & 0xFFFFFFFF) + 0.5) / 2**32 for salt in (0, 0x7F4A7C15)
    ]
    return (-2 * uniform[0].log()).sqrt() * (2 * torch.pi * uniform[1]).cos()


def _hash(bits: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
    for multiplier in _MIX:
        bits = ((bits ^ (bits >> 16)) * multiplier) & 0xFFFFFFFF
    return bits ^ (bits >> 16)
