"""The stage that says which pairs of latents the NFM's gain is due to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from lightning import Trainer
from torch import Tensor

from sae_nfm.attribution.ablation import SetAblations, SingleAblations
from sae_nfm.attribution.choosing import Choice, choose
from sae_nfm.attribution.contexts import Contexts
from sae_nfm.attribution.halves import Batches, halves
from sae_nfm.attribution.interactions import Interactions
from sae_nfm.attribution.resumed import Resumed
from sae_nfm.attribution.sums import (
    ChosenPairs,
    LatentSums,
    PairSums,
    PairTable,
    PartSums,
    TripleSums,
)
from sae_nfm.attribution.task import AttributionTask, Sums, part_names
from sae_nfm.evaluation.blocks import ScoredBlocks
from sae_nfm.findings import attribution as findings
from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.pairs import PairOrder
from sae_nfm.recipes.training import retrained
from sae_nfm.recipes.workshop import Workshop
from sae_nfm.settings.values import Count, Natural, checked
from sae_nfm.stages.attributed import FOLDER, Passes, figures, in_short, in_words, write
from sae_nfm.store.store import discard, fingerprint
from sae_nfm.training.callbacks import PassLine, Reached

_UNFINISHED = "unfinished"
_SAMPLE = 64
"""Blocks on which the busiest latents are told."""


@checked
class Attribution:
    """How the gain is attributed.

    Args:
        features: whether single latents, and the whole error, are accounted for too.
        tokens: scored positions; the halves of the documents have about as many each.
        nodes: of the quadrature along each path.
        busiest: latents whose pairs are summed one by one; pairs of others are estimated.
        named: pairs that are named, and tested on the other half.
        harmful: pairs that add to the KL, likewise.
        further_seeds: NFMs that are trained beside the study's, to see whether they name the same pairs.
        batch_size: blocks.
        keep_every: batches after which what is summed is written down, for an interrupted run to go on from.
    """

    def __init__(
        self,
        features: bool,
        tokens: Count,
        nodes: Count,
        busiest: Count,
        named: Count,
        harmful: Natural,
        further_seeds: Natural,
        batch_size: Count,
        keep_every: Count,
    ) -> None:
        self.features, self.tokens, self.nodes, self.busiest = features, tokens, nodes, busiest
        self.named, self.harmful, self.further_seeds = named, harmful, further_seeds
        self.batch_size, self.keep_every = batch_size, keep_every


class Attribute:
    """Attributes a study's gain on one half of its held-out documents, and verifies that on the other.

    Args:
        scored: blocks and positions that count.
        how: the settings.
        about: what determines the sums, for a run that was interrupted.
        folder: of the study.
    """

    name = "attribution"

    def __init__(self, scored: ScoredBlocks, how: Attribution, about: str, folder: Path) -> None:
        self.scored, self.how, self.folder = scored, how, folder
        self.about = fingerprint({"study": about, "attribution": vars(how)})
        self.halves = halves(scored)

    def run(self, workshop: Workshop) -> dict[str, Any]:
        """Write what is found below the study's folder, and return what `result.json` repeats of it."""
        autoencoder = workshop.autoencoder
        interactions = Interactions.of(autoencoder)
        busiest = self._busiest(workshop)
        first = self._pass("choosing", autoencoder, self._sums(interactions, busiest), None, workshop)
        table = first.sums.pairs.compute()
        lengths = interactions.lengths(torch.stack([table.i, table.j], dim=1))
        size = findings.size_of(table, lengths)
        how = self.how
        choice = choose(table, size, interactions.d_sae, how.named, how.harmful, workshop.activations.seed)
        second = self._verify(choice, interactions, busiest, workshop)
        others = self._further(table, busiest, workshop)
        assert second.contexts is not None
        contexts = second.contexts.joined(workshop.run.ranks)
        passes = Passes(first, second, choice, table, lengths)

        def written() -> dict[str, Any]:
            found = figures(passes, how, self.halves.left_out, others)
            words = in_words(passes, contexts, workshop.activations.lm.tokenizer)
            write(found, words, passes, self.folder)
            discard(self.folder / FOLDER / _UNFINISHED)
            return in_short(found)

        return {"attribution": workshop.run.ranks.from_first(written)}

    def obtain(self, workshop: Workshop) -> None:
        """NFMs of further seeds."""
        for further in range(1, self.how.further_seeds + 1):
            retrained(workshop, workshop.activations.seed + further)

    def _verify(
        self, choice: Choice, interactions: Interactions, busiest: Tensor, workshop: Workshop
    ) -> AttributionTask:
        documents, d_sae = self.scored.blocks.num_documents, interactions.d_sae
        named, singles = PairOrder(choice.named, d_sae), PairOrder(choice.singles, d_sae)
        sums = self._sums(interactions, busiest)._replace(
            chosen=ChosenPairs(named, documents),
            sets=SetAblations(choice.orders, documents),
            singles=SingleAblations(singles, choice.singles_together),
        )
        contexts = Contexts(named, choice.named.unique().tolist())
        return self._pass("verifying", workshop.autoencoder, sums, contexts, workshop)

    def _further(self, mine: PairTable, busiest: Tensor, workshop: Workshop) -> list[dict[str, Any]]:
        """What other NFMs on the same SAE say of the half that chose."""
        found, documents = [], self.scored.blocks.num_documents
        for further in range(1, self.how.further_seeds + 1):
            seed = workshop.activations.seed + further
            autoencoder = retrained(workshop, seed)
            interactions = Interactions.of(autoencoder)
            parts = PartSums(part_names(interactions, False), documents)
            sums = Sums(parts, PairSums(busiest, interactions.d_sae))
            other = self._pass(f"seed_{seed}", autoencoder, sums, None, workshop).sums.pairs.compute()
            found.append(findings.agreement(mine, other, interactions.d_sae, self.how.named, seed))
        return found

    def _sums(self, interactions: Interactions, busiest: Tensor) -> Sums:
        documents, d_sae = self.scored.blocks.num_documents, interactions.d_sae
        return Sums(
            PartSums(part_names(interactions, self.how.features), documents),
            PairSums(busiest, d_sae),
            TripleSums(d_sae) if 3 in interactions.orders else None,
            LatentSums(d_sae) if self.how.features else None,
        )

    def _pass(
        self, name: str, autoencoder: Autoencoder, sums: Sums, contexts: Contexts | None, workshop: Workshop
    ) -> AttributionTask:
        """One pass over a half of the documents."""
        at, ranks = workshop.activations, workshop.run.ranks
        numbers = self.halves.verifying if name == "verifying" else self.halves.choosing
        task = AttributionTask(
            at.lm, at.site, autoencoder, self.scored, Batches(numbers, self.how.batch_size), self.how.nodes,
            self.how.features and not name.startswith("seed"), sums, contexts,
            Resumed(self.folder / FOLDER / _UNFINISHED, name, self.about, ranks, self.how.keep_every),
        )  # fmt: skip
        self._trainer(task, workshop.run.trainer).test(task, verbose=False)
        return task

    def _trainer(self, task: AttributionTask, trainer: Callable[..., Trainer]) -> Trainer:
        total = round(self.scored.num_tokens * len(task.batches.numbers) / self.scored.num_blocks)
        line = PassLine(task.doing, total, "tokens", lambda: _reached(task))
        how = {"precision": "32-true", "logger": False, "inference_mode": False}  # gradients are taken
        return trainer(**how, callbacks=[line], default_root_dir=self.folder)

    def _busiest(self, workshop: Workshop) -> Int64[Tensor, " latent"]:
        """The latents that are active at most tokens of a sample of the half that chooses."""
        at, autoencoder = workshop.activations, workshop.autoencoder
        d_sae = autoencoder.sae.d_sae
        if d_sae <= self.how.busiest:
            return torch.arange(d_sae)
        counts = torch.zeros(d_sae, dtype=torch.int64)
        device = autoencoder.normalizer.scale.device
        for number in self.halves.choosing[:_SAMPLE]:
            tokens = self.scored.blocks.tokens(np.array([number]))
            prefix = at.lm.prefix(tokens, at.site)
            with torch.no_grad():
                codes = autoencoder(prefix.activation.to(device, autoencoder.normalizer.scale.dtype)).codes
            counts += torch.bincount(codes.indices[codes.values > 0].cpu(), minlength=d_sae)
        return counts.topk(self.how.busiest).indices.sort().values


def _reached(task: AttributionTask) -> Reached:
    """Tokens so far, and the mean KL with the NFM over them."""
    parts = task.sums.parts
    tokens, kl = int(parts.tokens_by_document.sum()), parts.by_document[parts.parts.index("kl_sae_nfm")].sum()
    return Reached(tokens, f"KL {float(kl) / tokens:.4f}" if tokens else "")
