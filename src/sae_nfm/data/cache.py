"""Training activations kept on disk, so that studies of one site run its prefix once."""

import logging
import shutil
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_nfm import progress
from sae_nfm.data.activations import ActivationSequence, ActivationStream
from sae_nfm.settings.values import Count, NotAllowed, checked
from sae_nfm.store.company import ALONE, Company

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
_CHUNK = 8192  # tokens that go through the prefix between two writes
log = logging.getLogger(__name__)


@checked
class ActivationCache:
    """How training activations are kept: shards of raw numbers, mapped into memory when they are read.

    Args:
        dtype: of the numbers on disk, `bfloat16` or `float32`.
        tokens: how many are kept; None is as many as a stage trains on. One round through the split at most.
        shard_bytes: size of a shard.

    Raises:
        NotAllowed: a setting is not allowed.
    """

    def __init__(
        self, dtype: Literal["bfloat16", "float32"], tokens: Count | None, shard_bytes: Count
    ) -> None:
        self.dtype, self.tokens, self.shard_bytes = DTYPES[dtype], tokens, shard_bytes

    def shard_tokens(self, d_model: int) -> int:
        """Tokens of a whole shard."""
        return max(1, self.shard_bytes // (d_model * self.dtype.itemsize))

    def write(self, stream: ActivationStream, num_tokens: int, folder: Path) -> None:
        """Write the first tokens of a stream; shards that an interrupted call left are kept.

        Raises:
            NotAllowed: the disk has too little room; nothing is written then.
        """
        d_model = stream.lm.d_model
        size = self.shard_tokens(d_model)
        missing = [start for start in range(0, num_tokens, size) if not _shard(folder, start).exists()]
        tokens = sum(min(size, num_tokens - start) for start in missing)
        self._announce(tokens, d_model, folder)
        with progress.line("activations", num_tokens, done=num_tokens - tokens) as line:
            done = num_tokens - tokens
            for start in missing:
                stop = min(start + size, num_tokens)
                self._write_shard(stream, start, stop, _shard(folder, start), done, line)
                done += stop - start

    def _announce(self, num_tokens: int, d_model: int, folder: Path) -> None:
        per_token = d_model * self.dtype.itemsize
        needed = num_tokens * per_token
        free = shutil.disk_usage(folder).free
        what = f"{num_tokens:,} tokens of {d_model} {str(self.dtype).removeprefix('torch.')}s"
        log.info("activations: %s are %s on disk, in %s", what, _gib(needed), folder)
        if needed > free:
            raise NotAllowed(
                "activations",
                "cached",
                f"activations.tokens up to {free // per_token}, activations=streamed,\n"
                "activations.dtype=bfloat16, or artifacts=DIR on a larger disk",
                f"{what} are {_gib(needed)}, and {folder} has {_gib(free)} left",
            )

    def _write_shard(
        self, stream: ActivationStream, start: int, stop: int, path: Path, done: int, line: progress.Line
    ) -> None:
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            for first in range(start, stop, _CHUNK):
                x = stream.read(first, min(first + _CHUNK, stop)).to(self.dtype).cpu().contiguous()
                file.write(x.view(torch.uint8).numpy().tobytes())
                line.at(done + first + len(x) - start)
        partial.replace(path)


class CachedActivations(ActivationSequence):
    """The training activations as one endless sequence, as an `ActivationStream` gives them, from disk.

    In every round all tokens are permuted anew. Token n of the sequence is the same in every process and
    after every restart.

    Args:
        cache: how they were written.
        folder: the shards.
        num_tokens: of all shards.
        d_model: width of the activations.
        seed: of the permutations.
        device: where activations are handed out.
        company: the studies of this process.
    """

    def __init__(
        self,
        cache: ActivationCache,
        folder: Path,
        num_tokens: int,
        d_model: int,
        seed: int,
        device: torch.device,
        company: Company = ALONE,
    ) -> None:
        self.tokens_per_round, self.seed, self.device = num_tokens, seed, device
        self.folder, self.company = folder, company
        self._size = cache.shard_tokens(d_model)
        self._shards = [
            _mapped(_shard(folder, start), min(self._size, num_tokens - start), d_model, cache.dtype)
            for start in range(0, num_tokens, self._size)
        ]
        self._round: tuple[int, np.ndarray] | None = None

    def _read_in_round(self, round_number: int, offset: int, take: int) -> Iterator[Tensor]:
        yield self._gather(self._order(round_number)[offset : offset + take]).to(self.device)

    def _identity(self) -> tuple[Hashable, ...]:
        return self.folder, self.seed

    def _gather(self, places: np.ndarray) -> Float[Tensor, "token d_model"]:
        """The tokens at these places, read in the order in which they lie on disk."""
        order = np.argsort(places)
        ends = np.searchsorted(places[order], np.arange(1, len(self._shards) + 1) * self._size)
        parts = np.split(places[order].astype(np.int64) % self._size, ends[:-1])
        rows = [shard[torch.from_numpy(part)] for shard, part in zip(self._shards, parts, strict=True)]
        out = torch.empty(len(places), self._shards[0].shape[1], dtype=self._shards[0].dtype)
        out[torch.from_numpy(order)] = torch.cat(rows)
        return out

    def _order(self, round_number: int) -> np.ndarray:
        if self._round is None or self._round[0] != round_number:
            generator = np.random.default_rng((self.seed, round_number))
            order = generator.permutation(np.arange(self.tokens_per_round, dtype=np.uint32))
            self._round = (round_number, order)
        return self._round[1]


def _shard(folder: Path, start: int) -> Path:
    """Where the tokens from `start` on are."""
    return folder / f"{start:012d}.bin"


def _mapped(path: Path, num_tokens: int, d_model: int, dtype: torch.dtype) -> Float[Tensor, "token d_model"]:
    return torch.from_file(str(path), size=num_tokens * d_model, dtype=dtype).view(num_tokens, d_model)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"
