"""The Lightning test loop: every block once through the prefix, every condition through the suffix."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sae_nfm.baselines.matched import Target
from sae_nfm.baselines.spliceable import Spliceable
from sae_nfm.baselines.surroundings import Surroundings
from sae_nfm.evaluation.blocks import ScoredBlocks
from sae_nfm.evaluation.condition import Condition
from sae_nfm.evaluation.export import TokenExport
from sae_nfm.evaluation.reconstructions import Reconstruction, modules
from sae_nfm.lm.model import LanguageModel, Site
from sae_nfm.measures.divergence import Clean, divergence
from sae_nfm.measures.finite import NonFinite
from sae_nfm.measures.quality import DictionaryQuality
from sae_nfm.measures.sums import EvaluationSums, TokenValues, measures
from sae_nfm.models.autoencoder import Autoencoder, Parts
from sae_nfm.models.codes import Codes


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


class EvaluationTask(LightningModule):
    """Splices every condition into the model and sums what it does to the next-token distribution.

    Args:
        lm: moved to the trainer's device; no part of this module's state.
        site: where the conditions are spliced in.
        autoencoder: trained, with or without an NFM.
        scored: blocks and positions that count.
        conditions: what to splice in; the first is `clean`.
        reconstructions: by name.
        surroundings: of the site, where a condition asks for them.
        settings: how.
    """

    def __init__(
        self,
        lm: LanguageModel,
        site: Site,
        autoencoder: Autoencoder,
        scored: ScoredBlocks,
        conditions: list[Condition],
        reconstructions: Mapping[str, Reconstruction],
        surroundings: Surroundings | None,
        settings: Settings,
    ) -> None:
        super().__init__()
        self.lm, self.site, self.autoencoder, self.scored = lm, site, autoencoder, scored
        self.conditions, self.reconstructions = conditions, reconstructions
        self.surroundings, self.settings = surroundings, settings
        self.trained = nn.ModuleList(module for made in reconstructions.values() for module in modules(made))
        self.measures = measures(settings.top_n)
        blocks = scored.blocks
        self.sums = EvaluationSums(self.measures, len(conditions), blocks.context, blocks.num_documents)
        self.quality = DictionaryQuality(autoencoder.sae.d_in, autoencoder.sae.d_sae)
        self.bank_errors: dict[str, Tensor] = {}
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
            names = [condition.name for condition in self.conditions]
            self.export = TokenExport(self.settings.save_tokens, names, self.trainer.global_rank)
        if self.surroundings is not None:
            self.surroundings = self.surroundings.to(self.device)
            self.bank_errors = self._bank_errors(self.surroundings)
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
        prefix = self.lm.prefix(tokens, self.site)
        batch = self._spliceable(prefix.activation, numbers)
        activation = prefix.activation if self.autoencoder.plant is None else batch.x
        clean_logits = self.lm.suffix(activation, prefix.resid, self.site)
        clean = Clean.of(clean_logits, tokens, self.settings.top_n)
        replacements = self._replacements(batch, activation, self.scored.replaced(scored))
        by_measure, kl_draws = self._measure(clean, clean_logits, replacements, prefix.resid)
        self._check_finite(kl_draws, scored)
        has_target = scored & (clean.targets >= 0)
        has_target[:, :-1] &= scored[:, 1:]
        documents = self.scored.blocks.documents(numbers.cpu().numpy()).to(self.device)
        self.sums.update(TokenValues(by_measure, kl_draws, scored, has_target, documents))
        self.quality.update(_masked(batch.parts, scored))
        if self.export is not None:
            block, position = scored.nonzero(as_tuple=True)
            kl = by_measure[0][:, scored]
            self.export.add(documents[scored], numbers.to(block.device)[block], position, tokens[scored], kl)

    def _check_finite(self, kl_draws: list[Float[Tensor, "_draw block pos"]], scored: Tensor) -> None:
        """Raise a `NonFinite` that names the condition, where a KL is NaN or infinite."""
        for condition, kl in zip(self.conditions, kl_draws, strict=True):
            if not (found := kl[:, scored]).isfinite().all():
                broken = int((~found.isfinite()).sum())
                raise NonFinite(
                    f"evaluation: the KL of {condition.name} is not finite at {broken} of {found.numel()} "
                    f"measurements of a batch, in lm.dtype={self.lm.dtype};\nallowed: finite logits, "
                    "as a wider lm.dtype or a smaller learning rate of what is spliced in may give"
                )

    def _spliceable(self, activation: Tensor, numbers: Tensor) -> Spliceable:
        parts = self.autoencoder(activation.to(self.autoencoder.normalizer.scale.dtype))
        return Spliceable(parts.x, parts, numbers, self.settings.seed, self.surroundings)

    def _bank_errors(self, surroundings: Surroundings) -> dict[str, Tensor]:
        """R − x on the bank, for every R that a baseline wants it of."""
        wanted = {
            c.reconstruction for c in self.conditions if c.baseline and c.baseline.needs == "bank_error"
        }
        bank = self._spliceable(surroundings.bank.unsqueeze(0), torch.zeros(1, dtype=torch.int64))
        return {name: (self.reconstructions[name](bank) - bank.x)[0] for name in wanted if name}

    def _replacements(
        self,
        batch: Spliceable,
        activation: Float[Tensor, "block pos d_model"],
        replaced: Bool[Tensor, "block pos"],
    ) -> Iterator[tuple[int, Float[Tensor, "block pos d_model"], Float[Tensor, "distance block pos"]]]:
        """Condition number, spliced activation and its distances, for every draw of every condition."""
        made = {name: make(batch) for name, make in self.reconstructions.items()}
        for number, condition in enumerate(self.conditions):
            for draw in range(condition.draws):
                out = batch.x
                if condition.reconstruction is not None:
                    out = made[condition.reconstruction]
                    if condition.baseline is not None:
                        target = Target(out, self.bank_errors.get(condition.reconstruction))
                        out = condition.baseline(batch, target, draw)
                error = (out - batch.x).norm(dim=-1)
                cosine = torch.cosine_similarity(out, batch.x, dim=-1)
                distances = torch.stack([error.pow(2) / out.shape[-1], error, cosine])
                yield number, torch.where(replaced.unsqueeze(-1), out, activation), distances

    def _measure(
        self,
        clean: Clean,
        clean_logits: Float[Tensor, "block pos d_vocab"],
        replacements: Iterator[tuple[int, Tensor, Tensor]],
        resid: Float[Tensor, "block pos d_model"],
    ) -> tuple[Float[Tensor, "measure condition block pos"], list[Float[Tensor, "_draw block pos"]]]:
        """Run the replacements through the suffix, several stacked: means over draws, and every KL."""
        num_blocks = len(resid)
        stack = max(1, (self.settings.rows or (8 if self.device.type == "cpu" else 64)) // num_blocks)
        number, _, distances = next(replacements)
        draws: list[list[Tensor]] = [[] for _ in self.conditions]
        draws[number].append(torch.cat([divergence(clean, clean_logits), distances]))
        for group in _grouped(replacements, stack):
            activation = torch.cat([replacement for _, replacement, _ in group])
            logits = self.lm.suffix(activation, resid.repeat(len(group), 1, 1), self.site)
            for (number, _, distances), part in zip(group, logits.split(num_blocks), strict=True):
                draws[number].append(torch.cat([divergence(clean, part), distances]))
        stacked = [torch.stack(values) for values in draws]
        return torch.stack([values.mean(0) for values in stacked], dim=1), [
            values[:, 0] for values in stacked
        ]


def _masked(parts: Parts, mask: Bool[Tensor, "block pos"]) -> Parts:
    """The parts of the chosen tokens, as a list of tokens."""
    codes = Codes(parts.codes.values[mask], parts.codes.indices[mask])
    chosen = {name: part[mask] for name, part in parts._asdict().items() if isinstance(part, Tensor)}
    return parts._replace(codes=codes, **chosen)


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
