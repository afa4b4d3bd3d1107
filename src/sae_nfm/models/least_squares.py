"""Exact linear maps of sparse features: ridge regression from streamed normal equations."""

from functools import cached_property

import psutil
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_nfm.models.codes import Codes, transposed_sum
from sae_nfm.settings.values import NotAllowed

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""To choose from on held-out tokens, relative to the mean of the features' squared norms."""
_SCATTER_COST = 256  # of one scattered addition, in multiply-adds of a matrix product: measured, 200 to 700
_ENTRIES_AT_ONCE = 1 << 25  # of pairs or dense features held in memory
_ROWS_AT_ONCE = 1024
_TOLERANCE, _ITERATIONS = 1e-6, 1000  # of conjugate gradients: residual over right-hand side


class NormalEquations:
    """Φᵀ Φ and Φᵀ R over any number of tokens, in float64: (features + 1)² · 8 bytes.

    They are solved by Cholesky's factorisation where that finds twice as much room again, and by conjugate
    gradients where it does not.

    Args:
        num_features: length of φ.
        d_out: length of a target r.
        bias: whether a constant feature stands beside φ.
        device: where they are summed.

    Raises:
        NotAllowed: the device has too little memory for them.
    """

    def __init__(self, num_features: int, d_out: int, bias: bool, device: torch.device) -> None:
        check_memory(num_features, device)
        self.num_features, self.bias = num_features, bias
        size = num_features + bias
        self._gram = torch.zeros(size, size, dtype=torch.float64, device=device)
        self._is_mirrored = True
        self.cross = torch.zeros(size, d_out, dtype=torch.float64, device=device)

    def add(self, features: Codes, target: Float[Tensor, "token d_out"]) -> None:
        """Add tokens, by the products of the k active features alone where that is less work."""
        size = len(self._gram)
        if self.bias:
            values = nn.functional.pad(features.values, (0, 1), value=1.0)
            features = Codes(values, nn.functional.pad(features.indices, (0, 1), value=size - 1))
        k = features.values.shape[1]
        dense = _SCATTER_COST * k**2 > size**2
        at_once = max(1, _ENTRIES_AT_ONCE // (size if dense else k**2))
        for start in range(0, len(target), at_once):
            part = Codes(*(tensor[start : start + at_once] for tensor in features))
            if dense:
                self._add_dense(part, target[start : start + at_once])
            else:
                self._add_scattered(part, target[start : start + at_once])

    def _add_dense(self, features: Codes, target: Tensor) -> None:
        written = Codes(features.values.double(), features.indices).dense(len(self._gram))
        self._gram.addmm_(written.T, written)
        self.cross.addmm_(written.T, target.double())

    def _add_scattered(self, features: Codes, target: Tensor) -> None:
        """Add every pair of features once, above the diagonal."""
        size, k = len(self._gram), features.values.shape[1]
        indices, order = features.indices.sort(dim=1)
        values = features.values.gather(1, order).double()
        first, second = torch.triu_indices(k, k, device=indices.device)
        pairs = indices[:, first] * size + indices[:, second]
        products = values[:, first] * values[:, second]
        self._gram.view(-1).scatter_add_(0, pairs.flatten(), products.flatten())
        self._is_mirrored = False
        self.cross += transposed_sum(values.to(target.dtype), indices, target, size)

    @property
    def gram(self) -> Float[Tensor, "size size"]:
        """Φᵀ Φ."""
        if not self._is_mirrored:
            for rows in torch.arange(len(self._gram)).split(_ROWS_AT_ONCE):
                start, stop = int(rows[0]), int(rows[-1]) + 1
                self._gram[stop:, start:stop] = self._gram[start:stop, stop:].T
                block = self._gram[start:stop, start:stop]
                block.copy_(block.triu() + block.triu(1).T)
            self._is_mirrored = True
        return self._gram

    @cached_property
    def _has_room(self) -> bool:
        """Whether a factor fits beside Φᵀ Φ: asked once, so that all ridges are solved alike."""
        return 2 * bytes_of(self.num_features) <= free_bytes(self._gram.device)

    def solve(self, ridge: float) -> tuple[Float[Tensor, "features d_out"], Float[Tensor, " d_out"] | None]:
        """Weights and bias of least squared error; `ridge` settles dead features, and spares the bias."""
        diagonal = self.gram.diagonal()
        added = torch.zeros_like(diagonal)
        added[: self.num_features] = ridge * diagonal[: self.num_features].mean()
        if self._has_room:
            factor = self.gram.clone()
            factor.diagonal().add_(added)
            factor = torch.linalg.cholesky(factor)  # by its name: solving takes another copy of it
            solution = torch.cholesky_solve(self.cross, factor)
        else:
            solution = conjugate_gradients(self.gram, added, self.cross)
        return solution[: self.num_features], solution[-1] if self.bias else None


def conjugate_gradients(
    gram: Float[Tensor, "size size"], added: Float[Tensor, " size"], cross: Float[Tensor, "size d_out"]
) -> Float[Tensor, "size d_out"]:
    """The solution of (gram + diag(added)) w = cross, preconditioned by the diagonal; nothing is copied.

    The columns of `cross` are solved beside each other (Hestenes & Stiefel 1952), until what is left of all
    of them is below 1e-6 of it.
    """
    scale = (gram.diagonal() + added).clamp_min(1e-300).rsqrt().unsqueeze(1)
    solution, residual = torch.zeros_like(cross), scale * cross
    direction, energy = residual.clone(), residual.pow(2).sum(0)
    enough = _TOLERANCE**2 * energy
    for _ in range(_ITERATIONS):
        if bool((energy <= enough).all()):
            break
        moved = scale * direction
        moved = scale * (gram @ moved + added.unsqueeze(1) * moved)
        step = energy / (direction * moved).sum(0).clamp_min(1e-300)
        solution += step * direction
        residual -= step * moved
        energy, before = residual.pow(2).sum(0), energy
        direction = residual + energy / before.clamp_min(1e-300) * direction
    return scale * solution


def check_memory(num_features: int, device: torch.device) -> None:
    """Raise `NotAllowed` where the normal equations of so many features do not fit on a device."""
    needed, free = bytes_of(num_features), free_bytes(device)
    if needed > free:
        raise NotAllowed(
            "sae.d_sae",
            num_features,
            f"up to {int((free / 8) ** 0.5)} latents, or nfm.fit=together and no refit in "
            "evaluation.reconstructions",
            because=f"the normal equations of a solved linear part take {needed / 1e9:.1f} GB on {device}, "
            f"which has {free / 1e9:.1f} GB left",
        )


def multiply_adds(num_features: int, k: float) -> float:
    """Of adding a token with k active features, in those of a matrix product."""
    return min(_SCATTER_COST * k**2, num_features**2)


def bytes_of(num_features: int) -> int:
    """Size of the matrix Φᵀ Φ, a bias included."""
    return 8 * (num_features + 1) ** 2


def free_bytes(device: torch.device) -> int:
    """Memory that is left on a device."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # for what comes next
        return torch.cuda.mem_get_info(device)[0] + kept
    return psutil.virtual_memory().available
