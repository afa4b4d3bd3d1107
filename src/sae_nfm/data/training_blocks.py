"""Whole token blocks to train on, in place of shuffled activations, as a Lightning data module."""

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import IterableDataset

from sae_nfm.data.resumed import ResumedModule
from sae_nfm.data.tokens import TokenBlocks
from sae_nfm.settings.values import NotAllowed


class DealtBlocks(IterableDataset):
    """Blocks of a split in an order that is new in every round, from a given step on.

    The blocks of a step are the same whatever the number of processes, which take them in turn.

    Args:
        blocks: of the split.
        per_step: over all processes; a multiple of their number.
        step: the first step to deal.
        rank: this process.
        world_size: number of processes.
        seed: of the order.
    """

    def __init__(
        self, blocks: TokenBlocks, per_step: int, step: int, rank: int, world_size: int, seed: int
    ) -> None:
        if per_step % world_size or per_step < world_size:
            allowed = f"as many as give each of {world_size} processes as many blocks of {blocks.context}"
            raise NotAllowed("batch_tokens", per_step * blocks.context, allowed)
        self.blocks, self.per_step, self.step = blocks, per_step, step
        self.rank, self.world_size, self.seed = rank, world_size, seed

    def __iter__(self) -> Iterator[Int64[Tensor, "block pos"]]:
        step, number, order = self.step, -1, np.zeros(0, np.int64)
        while True:
            chosen = []
            for place in range(step * self.per_step + self.rank, (step + 1) * self.per_step, self.world_size):
                if place // len(self.blocks) != number:
                    number = place // len(self.blocks)
                    order = self.blocks.order(self.seed, number)
                chosen.append(int(order[place % len(self.blocks)]))
            yield self.blocks.tokens(chosen)
            step += 1


class BlockModule(ResumedModule):
    """Training and validation blocks.

    Args:
        training: what is learnt from.
        validation: of held-out documents.
        per_step: blocks of a training step, over all processes.
        validation_tokens: held-out tokens per validation, at most; as many blocks as hold them.
        seed: of the order in which training blocks come.
    """

    def __init__(
        self, training: TokenBlocks, validation: TokenBlocks, per_step: int, validation_tokens: int, seed: int
    ) -> None:
        super().__init__(per_step * training.context)
        self.training, self.validation, self.per_step, self.seed = training, validation, per_step, seed
        self.validation_tokens = validation_tokens
        self.num_validation = max(2, min(len(validation), validation_tokens // (validation.context - 1)))

    def dealt(self, step: int, rank: int, world_size: int) -> IterableDataset:
        """The blocks of every step."""
        return DealtBlocks(self.training, self.per_step, step, rank, world_size, self.seed)

    def held_out(self, rank: int, world_size: int) -> IterableDataset:
        """Held-out blocks, in the same order in every study."""
        order = self.validation.order(0, 0)[: self.num_validation]
        size = max(1, self.per_step // world_size)
        if len(order) < world_size:
            because = f"they are {len(order)} whole blocks, of which each of {world_size} processes reads one"
            raise NotAllowed("validation_tokens", self.validation_tokens, "more, of more documents", because)
        slices = math.ceil(len(order) // world_size / size)  # of who has fewest: none of them is empty
        return _Held(self.validation, order[rank::world_size], slices)


class _Held(IterableDataset):
    """Chosen blocks, some at a time: as many times in every process, which talk to each other every time."""

    def __init__(self, blocks: TokenBlocks, chosen: Int64[np.ndarray, " block"], slices: int) -> None:
        self.blocks, self.chosen, self.slices = blocks, chosen, slices

    def __iter__(self) -> Iterator[Int64[Tensor, "block pos"]]:
        for chosen in np.array_split(self.chosen, self.slices):
            yield self.blocks.tokens(chosen)
