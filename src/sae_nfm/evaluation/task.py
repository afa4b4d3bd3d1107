"""The Lightning test loop: every block once through the prefix, every condition through the suffix."""

import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sae_nfm.baselines.spliceable import Spliceable
from sae_nfm.baselines.surroundings import Surroundings
from sae_nfm.evaluation.blocks import ScoredBlocks
from sae_nfm.evaluation.clean import CleanRun, Known, clean_run, content_of
from sae_nfm.evaluation.condition import Condition
from sae_nfm.evaluation.export import TokenExport
from sae_nfm.evaluation.reconstructions import Replacement
from sae_nfm.evaluation.splicing import Splicing
from sae_nfm.lm.model import LanguageModel
from sae_nfm.lm.site import Site
from sae_nfm.measures.finite import NonFinite
from sae_nfm.measures.quality import DictionaryQuality
from sae_nfm.measures.sums import EvaluationSums, TokenValues, measures
from sae_nfm.models.autoencoder import Autoencoder, Parts
from sae_nfm.models.codes import Codes
from sae_nfm.store.company import ALONE, Company

_LAST = 1 << 60  # studies that are trained go before studies that are evaluated


class Settings(NamedTuple):
    """How an evaluation is done, as opposed to what is evaluated."""

    rows: int | None
    """Blocks under some condition that go through the suffix at once; None is 8 on a CPU, where more would
    fall out of its cache, and 64 on a GPU."""
    top_n: int
    """Tokens that the top-N measures look at; 0 leaves those measures out."""
    save_tokens: Path | None
    """Folder for token-level results; None keeps none."""
    seed: int
    """Of the random draws."""

    def rows_on(self, device: torch.device) -> int:
        """Blocks that go through the suffix at once on a device."""
        return self.rows or (8 if device.type == "cpu" else 64)


class EvaluationTask(LightningModule):
    """Splices every condition into the model and sums what it does to the next-token distribution.

    Args:
        lm: moved to the trainer's device; no part of this module's state.
        site: where the conditions are spliced in.
        autoencoder: trained, with or without an NFM.
        scored: blocks and positions that count.
        conditions: what to splice in; the first is `clean`.
        replacements: by the names of reconstructions.
        surroundings: of the site, where a condition asks for them.
        settings: how.
        company: the studies of this process.
    """

    def __init__(
        self,
        lm: LanguageModel,
        site: Site,
        autoencoder: Autoencoder,
        scored: ScoredBlocks,
        conditions: list[Condition],
        replacements: Mapping[str, Replacement],
        surroundings: Surroundings | None,
        settings: Settings,
        company: Company = ALONE,
    ) -> None:
        super().__init__()
        self.company = company
        self.lm, self.site, self.autoencoder, self.scored = lm, site, autoencoder, scored
        self.conditions, self.surroundings, self.settings = conditions, surroundings, settings
        self.replacements = nn.ModuleList(replacements.values())  # so that they are on the device
        self.by_name = replacements
        self.measures = measures(settings.top_n)
        blocks = scored.blocks
        self.sums = EvaluationSums(self.measures, len(conditions), blocks.context, blocks.num_documents)
        self.quality = DictionaryQuality(autoencoder.sae.d_in, autoencoder.sae.d_sae)
        self.export: TokenExport | None = None
        self.seconds = 0.0

    def test_dataloader(self) -> DataLoader:
        """Numbers of the blocks that this process evaluates."""
        self.scored.rank, self.scored.world_size = self.trainer.global_rank, self.trainer.world_size
        return DataLoader(self.scored, batch_size=None)

    def on_test_start(self) -> None:
        """Put the model where the trainer computes, and start the clock."""
        self.lm.to(self.device)
        if self.settings.save_tokens is not None:
            names, of = [condition.name for condition in self.conditions], self.scored
            self.export = TokenExport(self.settings.save_tokens, names, of.rank, of.world_size)
        rows = self.settings.rows_on(self.device)
        partly = self.scored.single is not None
        self.splicing = Splicing(self.lm, self.site, self.conditions, self.by_name, rows, partly)
        if self.surroundings is not None:
            self.surroundings = self.surroundings.to(self.device)
            no_block = torch.zeros(1, dtype=torch.int64)
            self.splicing.read_bank(self._spliceable(self.surroundings.bank.unsqueeze(0), no_block, None))
        self._started = time.perf_counter()

    def on_test_epoch_end(self) -> None:
        """Add up the sums of all processes while they are on the devices; `compute` keeps the result."""
        self.sums.compute()
        self.quality.compute()

    def on_test_end(self) -> None:
        """Write what is left, and stop the clock."""
        if self.export is not None:
            self.export.write()
        self.seconds = time.perf_counter() - self._started

    def test_step(self, numbers: Int64[Tensor, " block"], batch_idx: int) -> None:
        """Evaluate a batch of blocks under all conditions."""
        tokens = self.scored.blocks.tokens(numbers.cpu().numpy()).to(self.device)
        scored = self.scored.scored(numbers, tokens)
        batch, run = self._without_replacement(tokens, numbers, batch_idx)
        by_measure, kl_draws = self.splicing.measure(batch, self.scored.replaced(scored), run)
        _check_finite(self.conditions, kl_draws, scored, self.lm.dtype)
        has_target = scored & (run.clean.targets >= 0)
        has_target[:, :-1] &= scored[:, 1:]
        documents = self.scored.blocks.documents(numbers.cpu().numpy()).to(self.device)
        self.sums.update(TokenValues(by_measure, kl_draws, scored, has_target, documents))
        self.quality.update(_masked(batch.parts, scored))
        if self.export is not None:
            block, position = scored.nonzero(as_tuple=True)
            kl = by_measure[0][:, scored]
            self.export.add(documents[scored], numbers.to(block.device)[block], position, tokens[scored], kl)

    def _without_replacement(
        self, tokens: Int64[Tensor, "block pos"], numbers: Int64[Tensor, " block"], batch_idx: int
    ) -> tuple[Spliceable, CleanRun]:
        """The blocks at the site, and run on from there; studies that share a process share it."""
        lm, site, top_n = self.lm, self.site, self.settings.top_n
        if self.autoencoder.plant is not None:
            prefix = lm.prefix(tokens, site)
            batch = self._spliceable(prefix.activation, numbers, None)
            return batch, clean_run(lm, site, tokens, prefix, batch.x, top_n, None)

        def run_clean() -> CleanRun:
            prefix, known = lm.prefix(tokens, site), None if self.company is ALONE else Known()
            return clean_run(lm, site, tokens, prefix, prefix.activation, top_n, known)

        what = (id(lm), site, self.scored.blocks.source, top_n, tuple(numbers.tolist()))
        run = self.company.once(what, run_clean, place=_LAST + batch_idx)
        return self._spliceable(run.prefix.activation, numbers, run.known), run

    def _spliceable(self, activation: Tensor, numbers: Tensor, known: Known | None) -> Spliceable:
        x = activation.to(self.autoencoder.normalizer.scale.dtype)
        if known is None:
            explained, drawn = self.autoencoder.explain(x), {}
        else:
            explained = known.explained(self._sae, lambda: self.autoencoder.explain(x))
            drawn = known.drawn
        parts = self.autoencoder.parts(x, explained)
        return Spliceable(parts.x, parts, numbers, self.settings.seed, self.surroundings, drawn)

    @cached_property
    def _sae(self) -> str:
        """What the SAE is, by its numbers."""
        return content_of(self.autoencoder.normalizer, self.autoencoder.sae)


def _check_finite(
    conditions: list[Condition], kl_draws: list[Float[Tensor, "_draw block pos"]], scored: Tensor, dtype: str
) -> None:
    """Raise a `NonFinite` that names the condition, where a KL is NaN or infinite."""
    for condition, kl in zip(conditions, kl_draws, strict=True):
        if not (found := kl[:, scored]).isfinite().all():
            broken = int((~found.isfinite()).sum())
            raise NonFinite(
                f"evaluation: the KL of {condition.name} is not finite at {broken} of {found.numel()} "
                f"measurements of a batch, in lm.dtype={dtype};\nallowed: finite logits, "
                "as a wider lm.dtype or a smaller learning rate of what is spliced in may give"
            )


def _masked(parts: Parts, mask: Bool[Tensor, "block pos"]) -> Parts:
    """The parts of the chosen tokens, as a list of tokens."""
    codes = Codes(parts.codes.values[mask], parts.codes.indices[mask])
    chosen = {name: part[mask] for name, part in parts._asdict().items() if isinstance(part, Tensor)}
    return parts._replace(codes=codes, **chosen)
