"""The Lightning test loop: every block once through the prefix, every condition through the suffix."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from lightning import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from sae_nfm.data.tokens import TokenBlocks
from sae_nfm.evaluation.conditions import Baseline, Reconstruction, Spliceable
from sae_nfm.evaluation.divergence import Clean, Divergence, divergence
from sae_nfm.evaluation.metrics import EvaluationSums, TokenValues
from sae_nfm.lm import LanguageModel, Site
from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.codes import Codes
from sae_nfm.training.quality import DictionaryQuality


class Condition(NamedTuple):
    """One way to replace the activation; `clean` replaces nothing."""

    name: str
    reconstruction: str | None
    baseline: Baseline | None
    draws: int


def conditions(
    reconstructions: Sequence[str], baselines: Mapping[str, Baseline], matched: Sequence[str], draws: int
) -> list[Condition]:
    """`clean`, the reconstructions, and `baseline(reconstruction)` for each pair of a baseline and a matched one.

    Raises:
        ValueError: there are no draws.
    """
    if draws < 1:
        raise ValueError(f"evaluation.draws={draws}: allowed are whole numbers from 1")
    plain = [Condition(name, name, None, 1) for name in reconstructions]
    held_against = [
        Condition(f"{name}({target})", target, baseline, draws if baseline.random else 1)
        for target in matched
        for name, baseline in baselines.items()
    ]
    return [Condition("clean", None, None, 1), *plain, *held_against]


class ScoredBlocks(IterableDataset):
    """The first blocks of a split, up to an exact number of scored tokens, dealt in turn to the processes.

    Args:
        blocks: of the test split.
        num_tokens: positions to score; what the split holds, if that is less.
        with_bos: whether BOS positions are replaced and scored like others, as published; else they keep their
            activation and are left out.
        batch_size: blocks per batch.
    """

    def __init__(self, blocks: TokenBlocks, num_tokens: int, with_bos: bool, batch_size: int) -> None:
        if num_tokens < 1:
            raise ValueError(f"eval_tokens={num_tokens}: allowed are whole numbers from 1")
        self.blocks, self.with_bos, self.batch_size = blocks, with_bos, batch_size
        counts = np.full(len(blocks), blocks.context) if with_bos else blocks.num_scored()
        ends = np.cumsum(counts)
        self.num_tokens = int(min(num_tokens, ends[-1]))
        self.num_blocks = int(np.searchsorted(ends, self.num_tokens)) + 1
        self._before = ends - counts
        self.rank, self.world_size = 0, 1

    def scored(
        self, numbers: Int64[Tensor, " block"], tokens: Int64[Tensor, "block pos"]
    ) -> Bool[Tensor, "block pos"]:
        """Which positions of these blocks count."""
        candidates = (
            torch.ones_like(tokens, dtype=torch.bool) if self.with_bos else tokens != self.blocks.bos_id
        )
        left = torch.from_numpy(self.num_tokens - self._before[numbers.cpu().numpy()]).to(tokens.device)
        return candidates & (candidates.cumsum(1) <= left.unsqueeze(1))

    def __iter__(self) -> Iterator[Int64[Tensor, " block"]]:
        for start in range(self.rank * self.batch_size, self.num_blocks, self.world_size * self.batch_size):
            yield torch.arange(start, min(start + self.batch_size, self.num_blocks))


class EvaluationTask(LightningModule):
    """Splices every condition into the model and sums what it does to the next-token distribution.

    Args:
        lm: moved to the trainer's device; no part of this module's state.
        site: where the conditions are spliced in.
        autoencoder: trained, with or without an NFM.
        scored: blocks and positions that count.
        conditions: what to splice in; the first is `clean`.
        reconstructions: by name.
        rows: blocks under some condition that go through the suffix at once; None is 8 on a CPU, where more
            would fall out of its cache, and 64 on a GPU.
        seed: of the random draws.
    """

    def __init__(
        self,
        lm: LanguageModel,
        site: Site,
        autoencoder: Autoencoder,
        scored: ScoredBlocks,
        conditions: list[Condition],
        reconstructions: Mapping[str, Reconstruction],
        rows: int | None,
        seed: int,
    ) -> None:
        super().__init__()
        self.lm, self.site, self.autoencoder, self.scored = lm, site, autoencoder, scored
        self.conditions, self.reconstructions = conditions, reconstructions
        self.rows, self.seed = rows, seed
        self.sums = EvaluationSums(len(conditions), scored.blocks.context, scored.blocks.num_documents)
        self.quality = DictionaryQuality(autoencoder.sae.d_in, autoencoder.sae.d_sae)
        self.seconds = 0.0

    def test_dataloader(self) -> DataLoader:
        """Numbers of the blocks that this process evaluates."""
        self.scored.rank, self.scored.world_size = self.trainer.global_rank, self.trainer.world_size
        return DataLoader(self.scored, batch_size=None)

    def on_test_start(self) -> None:
        """Put the model where the trainer computes, and start the clock."""
        self.lm.to(self.device)
        self._started = time.perf_counter()

    def on_test_end(self) -> None:
        """Stop the clock."""
        self.seconds = time.perf_counter() - self._started

    def test_step(self, numbers: Int64[Tensor, " block"], batch_idx: int) -> None:
        """Evaluate a batch of blocks under all conditions."""
        tokens = self.scored.blocks.tokens(numbers).to(self.device)
        mask = self.scored.scored(numbers, tokens)
        prefix = self.lm.prefix(tokens, self.site)
        x = prefix.activation.to(self.autoencoder.normalizer.scale.dtype)
        batch = Spliceable(x, self.autoencoder(x), numbers, self.seed)
        clean_logits = self.lm.suffix(prefix.activation, prefix.resid, self.site)
        clean = Clean.of(clean_logits, tokens)
        has_target = mask & (clean.targets >= 0)
        has_target[:, :-1] &= mask[:, 1:]
        replacements = self._replacements(batch, mask)
        measured = self._measure(clean, clean_logits, replacements, prefix.resid)
        by_measure, kl_draws = self._average(measured)
        documents = self.scored.blocks.documents(numbers).to(self.device)
        self.sums.update(TokenValues(by_measure, kl_draws, mask, has_target, documents))
        self._update_quality(batch, mask)

    def _replacements(
        self, batch: Spliceable, mask: Bool[Tensor, "block pos"]
    ) -> Iterator[tuple[int, Float[Tensor, "block pos d_model"], Float[Tensor, "measure block pos"]]]:
        """Condition number, spliced activation, and its mse, l2 and cosine, for every draw of every condition."""
        made = {name: make(batch) for name, make in self.reconstructions.items()}
        for number, condition in enumerate(self.conditions):
            for draw in range(condition.draws):
                out = batch.x if condition.reconstruction is None else made[condition.reconstruction]
                if condition.baseline is not None:
                    out = condition.baseline(batch, out, draw)
                error = (out - batch.x).norm(dim=-1)
                cosine = torch.cosine_similarity(out, batch.x, dim=-1)
                distances = torch.stack([error.pow(2) / out.shape[-1], error, cosine])
                yield number, torch.where(mask.unsqueeze(-1), out, batch.x), distances

    def _measure(
        self,
        clean: Clean,
        clean_logits: Float[Tensor, "block pos d_vocab"],
        replacements: Iterator[tuple[int, Tensor, Tensor]],
        resid: Float[Tensor, "block pos d_model"],
    ) -> list[tuple[int, Divergence, Tensor]]:
        """Run the replacements through the suffix, several conditions stacked."""
        num_blocks = len(resid)
        stack = max(1, (self.rows or (8 if self.device.type == "cpu" else 64)) // num_blocks)
        number, _, distances = next(replacements)
        measured = [(number, divergence(clean, clean_logits), distances)]
        for group in _grouped(replacements, stack):
            activation = torch.cat([replacement for _, replacement, _ in group])
            logits = self.lm.suffix(activation, resid.repeat(len(group), 1, 1), self.site)
            for (number, _, distances), part in zip(group, logits.split(num_blocks), strict=True):
                measured.append((number, divergence(clean, part), distances))
        return measured

    def _average(self, measured: list[tuple[int, Divergence, Tensor]]) -> tuple[Tensor, list[Tensor]]:
        """Means over draws in the order of `MEASURES`, and every draw's KL."""
        by_measure, kl_draws = [], []
        for number in range(len(self.conditions)):
            draws = [(d, distances) for n, d, distances in measured if n == number]
            kl = torch.stack([d.kl for d, _ in draws])
            ce = torch.stack([d.ce for d, _ in draws]).mean(0)
            agreement = torch.stack([d.agreement for d, _ in draws]).to(ce.dtype).mean(0)
            mse, l2, cosine = torch.stack([distances for _, distances in draws]).mean(0).to(ce.dtype)
            by_measure.append(torch.stack([kl.mean(0), ce, mse, agreement, l2, cosine]))
            kl_draws.append(kl)
        return torch.stack(by_measure, dim=1), kl_draws

    def _update_quality(self, batch: Spliceable, mask: Bool[Tensor, "block pos"]) -> None:
        parts = batch.parts
        tensors = (None if part is None else part[mask] for part in parts[1:])
        codes = Codes(parts.codes.values[mask], parts.codes.indices[mask])
        self.quality.update(batch.x[mask], type(parts)(codes, *tensors))


def _grouped(
    items: Iterator[tuple[int, Tensor, Tensor]], size: int
) -> Iterator[list[tuple[int, Tensor, Tensor]]]:
    group = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
