"""Which positions of the test split are replaced, and which are scored."""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from torch.utils.data import IterableDataset

from sae_nfm.data.tokens import TokenBlocks
from sae_nfm.settings.values import NotAllowed

_COUNTED_AT_ONCE = 1024
_ORDER_SEED = 0  # not the study's: studies of all seeds are scored on the same blocks


class ScoredBlocks(IterableDataset):
    """Blocks of a split in a random but fixed order, up to an exact number of scored tokens.

    The order depends on the split alone: in that of the text, few documents would fill them all. They are
    dealt to the processes in turn.

    Args:
        blocks: of the test split.
        num_tokens: positions to score; what the split holds, if that is less.
        with_bos: whether BOS positions are replaced and scored like others, as published; else they keep
            their activation and are left out, as skipped positions always do.
        replace: `all` positions, or a `single` one of every block, and score it and what follows.
        position: the single one.
        batch_size: blocks per batch.

    Raises:
        NotAllowed: a number is out of range.
    """

    def __init__(
        self,
        blocks: TokenBlocks,
        num_tokens: int,
        with_bos: bool,
        replace: Literal["all", "single"],
        position: int,
        batch_size: int,
    ) -> None:
        if replace == "single" and not 1 + blocks.skipped <= position < blocks.context:
            raise NotAllowed("evaluation.position", position, f"{1 + blocks.skipped} to {blocks.context - 1}")
        if batch_size < 1:
            raise NotAllowed("evaluation.batch_size", batch_size, "whole numbers from 1")
        self.blocks, self.with_bos, self.batch_size = blocks, with_bos, batch_size
        self.single = position if replace == "single" else None
        self._order = np.random.default_rng(_ORDER_SEED).permutation(len(blocks))
        ends = np.cumsum(self._counts(num_tokens))
        self.num_tokens = int(min(num_tokens, ends[-1]))
        self.num_blocks = int(np.searchsorted(ends, self.num_tokens)) + 1
        self._before = np.full(len(blocks), self.num_tokens)
        self._before[self._order[: len(ends)]] = np.concatenate([[0], ends[:-1]])
        self.rank, self.world_size = 0, 1

    def signature(self) -> dict[str, Any]:
        """What determines the text and the positions that are scored; the study's seed does not."""
        folder, split, context, skipped = self.blocks.source
        text = {"tokens": folder.name, "split": split, "context": context, "skipped": skipped}
        return text | {"num_tokens": self.num_tokens, "with_bos": self.with_bos, "single": self.single}

    def replaced(self, scored: Bool[Tensor, "block pos"]) -> Bool[Tensor, "block pos"]:
        """Which positions get the replacement: the scored ones, or the single one."""
        if self.single is None:
            return scored
        at = torch.arange(scored.shape[1], device=scored.device) == self.single
        return at.expand_as(scored)

    def scored(
        self, numbers: Int64[Tensor, " block"], tokens: Int64[Tensor, "block pos"]
    ) -> Bool[Tensor, "block pos"]:
        """Which positions of these blocks count."""
        candidates = self._candidates(tokens)
        left = torch.from_numpy(self.num_tokens - self._before[numbers.cpu().numpy()]).to(tokens.device)
        return candidates & (candidates.cumsum(1) <= left.unsqueeze(1))

    def numbers(self) -> Int64[np.ndarray, " block"]:
        """All blocks that are scored, in order."""
        return self._order[: self.num_blocks]

    def is_one_document(self) -> bool:
        """Whether all scored positions lie in one document."""
        chosen = self.numbers()
        ends = torch.tensor([chosen.min(), chosen.max()])  # in the text all others lie between these two
        scored = self.scored(ends, self.blocks.tokens(ends.numpy()))
        documents = self.blocks.documents(ends.numpy())[scored]
        return len(documents.unique()) < 2

    def _candidates(self, tokens: Int64[Tensor, "block pos"]) -> Bool[Tensor, "block pos"]:
        is_bos = tokens == self.blocks.bos_id
        candidates = self.blocks.counted(tokens, self.with_bos)
        if self.single is not None:
            candidates = candidates & ~is_bos[:, self.single : self.single + 1]
            candidates[:, : self.single] = False
        return candidates

    def _counts(self, num_tokens: int) -> np.ndarray:
        """Positions of each block that can count, for as many blocks as it takes to reach `num_tokens`."""
        counts, total = [], 0
        for start in range(0, len(self.blocks), _COUNTED_AT_ONCE):
            numbers = self._order[start : start + _COUNTED_AT_ONCE]
            counts.append(self._candidates(self.blocks.tokens(numbers)).sum(1).numpy())
            total += int(counts[-1].sum())
            if total >= num_tokens:
                break
        return np.concatenate(counts)

    def __iter__(self) -> Iterator[Int64[Tensor, " block"]]:
        for start in range(self.rank * self.batch_size, self.num_blocks, self.world_size * self.batch_size):
            yield torch.from_numpy(self._order[start : min(start + self.batch_size, self.num_blocks)])
