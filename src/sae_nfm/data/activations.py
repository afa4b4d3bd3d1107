"""Token blocks → activations at a site, shuffled through a pool, as a Lightning data module."""

import math
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import IterableDataset

from sae_nfm.data.resumed import ResumedModule
from sae_nfm.data.tokens import TokenBlocks
from sae_nfm.lm.model import LanguageModel
from sae_nfm.lm.site import Site
from sae_nfm.settings.values import Count, NotAllowed, Several, checked
from sae_nfm.store.company import ALONE, Company


class ActivationSequence:
    """Activations as one endless sequence, round after round through the same tokens.

    Studies that share a process share what they read of the same sequence: it is not to be changed in place.
    """

    tokens_per_round: int
    device: torch.device
    company: Company

    def read(self, start: int, stop: int) -> Float[Tensor, "token d_model"]:
        """Activations of tokens `start` to `stop` of the sequence, on the device."""
        return self._shared(start, (stop,), lambda: self._joined(start, stop))

    def mixed(self, start: int, stop: int, seed: tuple[int, ...]) -> Float[Tensor, "token d_model"]:
        """The same activations in an order that the seed gives."""

        def mix() -> Tensor:
            activations = self._joined(start, stop)
            order = np.random.default_rng(seed).permutation(stop - start)
            return activations[torch.from_numpy(order).to(activations.device)]

        return self._shared(start, (stop, seed), mix)

    def _shared(self, start: int, more: tuple[Hashable, ...], compute: Callable[[], Tensor]) -> Tensor:
        return self.company.once((*self._identity(), start, *more), compute, place=start)

    def _identity(self) -> tuple[Hashable, ...]:
        """What distinguishes the sequence from others in the same process."""
        raise NotImplementedError

    def _joined(self, start: int, stop: int) -> Float[Tensor, "token d_model"]:
        pieces = []
        while start < stop:
            round_number, offset = divmod(start, self.tokens_per_round)
            take = min(stop - start, self.tokens_per_round - offset)
            pieces.extend(self._read_in_round(round_number, offset, take))
            start += take
        return torch.cat(pieces)

    def _read_in_round(self, round_number: int, offset: int, take: int) -> Iterator[Tensor]:
        """`take` tokens of a round from `offset` on, in pieces."""
        raise NotImplementedError


class ActivationStream(ActivationSequence):
    """The activations of a split as one endless sequence of scored tokens.

    The blocks are permuted anew in every round through the split; token n of the sequence is the same in
    every process and after every restart, so that sharding and resuming are arithmetic. BOS tokens
    and skipped positions are not in it.

    Args:
        lm: read up to `site`.
        site: where activations are read.
        blocks: the split's token blocks.
        lm_batch: blocks that go through the prefix at once.
        seed: of the permutations.
        company: the studies of this process.
    """

    def __init__(
        self,
        lm: LanguageModel,
        site: Site,
        blocks: TokenBlocks,
        lm_batch: int,
        seed: int,
        company: Company = ALONE,
    ) -> None:
        self.lm, self.site, self.blocks, self.lm_batch, self.seed = lm, site, blocks, lm_batch, seed
        self.company = company
        self.tokens_per_round, self.device = int(blocks.num_scored().sum()), lm.device
        self._round: tuple[int, np.ndarray, np.ndarray] | None = None

    def _read_in_round(self, round_number: int, offset: int, take: int) -> Iterator[Tensor]:
        order, ends = self._order(round_number)
        first = int(np.searchsorted(ends, offset, side="right"))
        last = int(np.searchsorted(ends, offset + take, side="left"))
        skip = offset - (int(ends[first - 1]) if first else 0)
        for begin in range(first, last + 1, self.lm_batch):
            tokens = self.blocks.tokens(order[begin : min(begin + self.lm_batch, last + 1)])
            activation = self.lm.prefix(tokens, self.site).activation
            scored = activation[self.blocks.counted(tokens).to(activation.device)][skip : skip + take]
            skip, take = 0, take - len(scored)
            yield scored

    def _identity(self) -> tuple[Hashable, ...]:
        return id(self.lm), self.site, self.blocks.source, self.lm_batch, self.seed

    def _order(self, round_number: int) -> tuple[np.ndarray, np.ndarray]:
        """The blocks of a round in their order, and how many scored tokens end with each."""
        if self._round is None or self._round[0] != round_number:
            order = self.blocks.order(self.seed, round_number)
            self._round = (round_number, order, np.cumsum(self.blocks.num_scored()[order]))
        return self._round[1:]


@checked
@dataclass(frozen=True)
class Pool:
    """How activations are mixed: `tokens` of them are drawn at a time, shuffled, and dealt out in batches.

    Args:
        tokens: size of the pool over all processes.
        batch: tokens per training step over all processes; divides `tokens`.
    """

    tokens: Count
    batch: Several  # of one token there is no variance to explain

    def __post_init__(self) -> None:
        if self.tokens % self.batch:
            raise NotAllowed("pool_tokens", self.tokens, f"multiples of batch_tokens={self.batch}")


class PooledBatches(IterableDataset):
    """Training batches of one process, from a given step on.

    Pool number c holds tokens c·P to (c+1)·P of the sequence, of which every process reads its own part.

    Args:
        stream: the training sequence.
        pool: sizes over all processes.
        step: the first step to deal.
        rank: this process.
        world_size: number of processes; divides the batch.
        seed: of the shuffles.
    """

    def __init__(
        self, stream: ActivationSequence, pool: Pool, step: int, rank: int, world_size: int, seed: int
    ) -> None:
        if pool.batch % world_size or pool.batch < 2 * world_size:
            allowed = f"multiples of the {world_size} processes, 2 tokens each or more"
            raise NotAllowed("batch_tokens", pool.batch, allowed)
        self.stream, self.pool, self.step = stream, pool, step
        self.rank, self.world_size, self.seed = rank, world_size, seed

    def __iter__(self) -> Iterator[Float[Tensor, "token d_model"]]:
        batch, steps = self.pool.batch // self.world_size, self.pool.tokens // self.pool.batch
        number, position = divmod(self.step, steps)
        while True:
            activations = self._fill(number)
            for i in range(position, steps):
                yield activations[i * batch : (i + 1) * batch]
            number, position = number + 1, 0

    def _fill(self, number: int) -> Float[Tensor, "token d_model"]:
        """Draw pool `number` and shuffle it."""
        size = self.pool.tokens // self.world_size
        start = number * self.pool.tokens + self.rank * size
        return self.stream.mixed(start, start + size, (self.seed, number, self.rank))


class ActivationModule(ResumedModule):
    """Training and validation activations of one site.

    Args:
        training: what is learnt from.
        validation: activations of held-out documents.
        pool: batch and shuffle pool.
        validation_tokens: held-out tokens per validation, at most.
        seed: of the shuffles.
    """

    def __init__(
        self,
        training: ActivationSequence,
        validation: ActivationSequence,
        pool: Pool,
        validation_tokens: int,
        seed: int,
    ) -> None:
        super().__init__(pool.batch)
        self.pool, self.seed = pool, seed
        self.training, self.validation = training, validation
        self.validation_tokens = min(validation_tokens, self.validation.tokens_per_round)

    def dealt(self, step: int, rank: int, world_size: int) -> IterableDataset:
        """Batches on the device."""
        return PooledBatches(self.training, self.pool, step, rank, world_size, self.seed)

    def held_out(self, rank: int, world_size: int) -> IterableDataset:
        """Held-out activations."""
        return _Slices(self.validation, self.validation_tokens, self.pool.batch, rank, world_size)


class _Slices(IterableDataset):
    """Consecutive slices of a sequence, as many for every process; nothing is padded or dropped.

    As many, because a process that validates talks to the others with every slice.
    """

    def __init__(
        self, stream: ActivationSequence, num_tokens: int, size: int, rank: int, world_size: int
    ) -> None:
        self.stream, self.num_tokens, self.size = stream, num_tokens, size
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[Float[Tensor, "token d_model"]]:
        num_slices = self.world_size * math.ceil(self.num_tokens / (self.world_size * self.size))
        bounds = [self.num_tokens * i // num_slices for i in range(num_slices + 1)]
        for i in range(self.rank, num_slices, self.world_size):
            yield self.stream.read(bounds[i], bounds[i + 1])
