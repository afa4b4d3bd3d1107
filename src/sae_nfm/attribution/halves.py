"""Held-out documents in two halves: one to choose pairs on, and one to see what they are worth."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from torch.utils.data import IterableDataset

from sae_nfm.evaluation.blocks import ScoredBlocks
from sae_nfm.settings.values import NotAllowed

_RUNS = 16
"""Runs of documents that go to one half and the other in turn: the borders of few fall within a block."""
_AT_ONCE = 1024


class Halves(NamedTuple):
    """Numbers of blocks, in the order of the evaluation."""

    choosing: Int64[np.ndarray, " block"]
    verifying: Int64[np.ndarray, " block"]
    left_out: int
    """Blocks with documents of both."""


def halves(scored: ScoredBlocks) -> Halves:
    """Deal the scored documents to two halves, so that no document and no block is in both.

    Neighbours in the text go together, a sixteenth of the blocks at a time: the text's parts are in both
    halves.

    Raises:
        NotAllowed: a half has fewer than two documents, so that nothing could be said of the spread.
    """
    numbers = scored.numbers()
    ends = [_documents(scored, part) for part in np.split(numbers, range(_AT_ONCE, len(numbers), _AT_ONCE))]
    first, last = np.concatenate(ends, axis=1)
    per_run = -(-len(numbers) // _RUNS)
    borders = np.sort(first)[per_run::per_run]  # documents that a new run starts with
    half = [np.searchsorted(borders, of, side="right") % 2 for of in (first, last)]
    whole = np.searchsorted(borders, first, side="right") == np.searchsorted(borders, last, side="right")
    in_half = [whole & (half[0] == which) for which in (0, 1)]
    fewest = min(len(np.union1d(first[chosen], last[chosen])) for chosen in in_half)
    if fewest < 2:
        allowed = "so many that either half of the documents has 2"
        raise NotAllowed("attribution.tokens", scored.num_tokens, allowed, f"a half has {fewest}")
    return Halves(numbers[in_half[0]], numbers[in_half[1]], int((~whole).sum()))


def _documents(scored: ScoredBlocks, numbers: Int64[np.ndarray, " block"]) -> np.ndarray:
    """The first and the last document that is scored of each block."""
    tokens = scored.blocks.tokens(numbers)
    counts = scored.scored(torch.from_numpy(numbers), tokens).numpy()
    documents = np.asarray(scored.blocks.documents(numbers))
    largest = documents.max() + 1
    return np.stack([np.where(counts, documents, largest).min(1), np.where(counts, documents, -1).max(1)])


class Batches(IterableDataset):
    """Batches of blocks, dealt to the processes in turn.

    Args:
        numbers: of the blocks.
        batch_size: blocks per batch.
    """

    def __init__(self, numbers: Int64[np.ndarray, " block"], batch_size: int) -> None:
        self.numbers, self.batch_size = numbers, batch_size
        self.rank, self.world_size, self.done = 0, 1, 0
        """Batches of this process that need not come again: see `Resumed`."""

    def __iter__(self):  # noqa: ANN204
        step = self.world_size * self.batch_size
        for start in range(self.rank * self.batch_size + self.done * step, len(self.numbers), step):
            yield torch.from_numpy(self.numbers[start : start + self.batch_size])
