"""The Lightning test loop of an attribution: the paths of every block, and what is summed along them."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Int64
from lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import Metric

from sae_nfm.attribution.ablation import SetAblations, SingleAblations
from sae_nfm.attribution.attributed import Attributed, Occurring
from sae_nfm.attribution.contexts import Contexts
from sae_nfm.attribution.halves import Batches
from sae_nfm.attribution.interactions import Interactions
from sae_nfm.attribution.paths import ByPooled, Straight, walk
from sae_nfm.attribution.resumed import Resumed
from sae_nfm.attribution.sums import SETS, ChosenPairs, LatentSums, PairSums, PartSums, TripleSums
from sae_nfm.evaluation.blocks import ScoredBlocks
from sae_nfm.lm.model import LanguageModel
from sae_nfm.lm.passage import Passage
from sae_nfm.lm.site import Site
from sae_nfm.models.autoencoder import Autoencoder, Parts
from sae_nfm.models.codes import Codes
from sae_nfm.training.objectives.kl import KL
from sae_nfm.training.through_model import SiteBatch, ThroughModel

SPLICED = ("sae", "sae_linear", "sae_nfm")
"""What stands in for the activation at the ends of the paths, by name."""


class Sums(NamedTuple):
    """What is summed in a pass over blocks; all but the first two may be left out."""

    parts: PartSums
    pairs: PairSums
    triples: TripleSums | None = None
    latents: LatentSums | None = None
    chosen: ChosenPairs | None = None
    sets: SetAblations | None = None
    singles: SingleAblations | None = None

    def metrics(self) -> dict[str, Metric]:
        """Those there are, by name."""
        return {name: metric for name, metric in self._asdict().items() if metric is not None}


class AttributionTask(LightningModule):
    """Walks the paths of blocks, and sums what the gradients say.

    Args:
        lm: moved to the trainer's device; no part of this module's state.
        site: where it is spliced.
        autoencoder: trained, with an NFM.
        scored: which positions count.
        batches: of blocks.
        nodes: of the quadrature.
        features: whether the paths of single latents and of the whole error are walked too.
        sums: what is summed.
        contexts: what is kept to be looked at; None keeps nothing.
        resumed: where an interrupted pass goes on.
    """

    def __init__(
        self,
        lm: LanguageModel,
        site: Site,
        autoencoder: Autoencoder,
        scored: ScoredBlocks,
        batches: Batches,
        nodes: int,
        features: bool,
        sums: Sums,
        contexts: Contexts | None,
        resumed: Resumed,
    ) -> None:
        super().__init__()
        self.lm, self.site, self.autoencoder, self.scored = lm, site, autoencoder, scored
        self.batches, self.nodes, self.features, self.resumed = batches, nodes, features, resumed
        self.sums, self.contexts = sums, contexts
        self.metrics = nn.ModuleDict(sums.metrics())  # so that they are on the device
        self.interactions = Interactions.of(autoencoder)
        self.seconds, self.doing = 0.0, f"attribution, {resumed.name}"

    def test_dataloader(self) -> DataLoader:
        """Blocks that are still to come."""
        self.batches.rank, self.batches.world_size = self.trainer.global_rank, self.trainer.world_size
        self.batches.done, self.seconds = self.resumed.restore(self.metrics, self.contexts)
        return DataLoader(self.batches, batch_size=None)

    def on_test_start(self) -> None:
        """Put the model where the trainer computes."""
        self.lm.to(self.device)
        self.interactions.back = self.autoencoder.normalizer.scale
        at_once = self.batches.batch_size
        self.through = ThroughModel(
            Passage(self.lm, self.site, checkpointing=self.lm.checkpointing), KL(), at_once
        )
        self._clock = time.perf_counter()

    def test_step(self, numbers: Int64[Tensor, " block"], batch_idx: int) -> None:
        """Take a batch of blocks in."""
        found = self.attributed(numbers)
        self.sums.parts.update(found.documents, taken_off(found))
        self.sums.pairs.update(found)
        for collector in (self.sums.triples, self.sums.chosen, self.contexts):
            if collector is not None:
                collector.update(found)
        if self.sums.latents is not None:
            nfm = cast(Any, self.autoencoder.nfm)
            self.sums.latents.update(found, self.autoencoder.sae.W_dec, nfm.W_lin)
        for collector in (self.sums.sets, self.sums.singles):
            if collector is not None:
                collector.update(found, self.through)
        self._tick()

    def _tick(self) -> None:
        now = time.perf_counter()
        self.seconds, self._clock = self.seconds + now - self._clock, now
        self.resumed.keep(self.metrics, self.contexts, self.seconds)

    def on_test_epoch_end(self) -> None:
        """Add up the sums of all processes while they are on the devices."""
        for metric in self.metrics.values():
            cast(Metric, metric).compute()

    def attributed(self, numbers: Int64[Tensor, " block"]) -> Attributed:
        """A batch of blocks with its paths walked."""
        batch, parts = self.spliced(numbers)
        assert parts.linear is not None
        clean = self.through.clean(batch)
        assert clean is not None
        at = {"sae": parts.sae, "sae_linear": parts.sae + parts.linear, "sae_nfm": parts.whole}
        kl = {name: self.through.by_token(point, batch, clean, False)[0] for name, point in at.items()}
        units = parts.explained.units
        pooled = self.interactions.pooled(parts.codes)
        path = ByPooled(self.interactions, at["sae_linear"], pooled, units)
        linear = error = sae = None
        if self.features:
            nothing = Codes(torch.zeros_like(parts.codes.values), parts.codes.indices)
            linear = Straight(parts.sae, at["sae_linear"])
            error = Straight(parts.sae, parts.x)
            sae = Straight(units.inverse(self.autoencoder.sae.decode(nothing)), parts.sae)
            kl["nothing"] = self.through.by_token(sae.start, batch, clean, False)[0]
        for each in (path, linear, error, sae):
            if each is not None:
                walk(each, self.nodes, self.through, batch, clean)
        documents = self.scored.blocks.documents(numbers.cpu().numpy()).to(self.device)[batch.scored]
        pairs = Occurring.of(parts.codes, -self.interactions.pair_products(parts.codes, path.felt))
        return Attributed(
            numbers, batch, clean, documents, parts, kl, self.interactions, pooled, path, pairs,
            linear, error, sae,
        )  # fmt: skip

    def spliced(self, numbers: Int64[Tensor, " block"]) -> tuple[SiteBatch, Parts]:
        """Blocks at the site, and what the dictionary makes of their scored tokens."""
        tokens = self.scored.blocks.tokens(numbers.cpu().numpy()).to(self.lm.device)
        scored = self.scored.scored(numbers, tokens)
        prefix = self.through.passage.prefix(tokens)
        x = prefix.activation.to(self.autoencoder.normalizer.scale.dtype)
        if self.autoencoder.plant is not None:
            x = self.autoencoder(x).x
        return SiteBatch(x, prefix.resid, tokens, scored), self.autoencoder(
            prefix.activation[scored].to(x.dtype)
        )


def part_names(interactions: Interactions, features: bool) -> Sequence[str]:
    """What `taken_off` gives."""
    names = [f"kl_{name}" for name in SPLICED] + ["constant", *(SETS[order] for order in interactions.orders)]
    of_features = ["kl_nothing", "sae", "linear", "error_linear", "error_interactions", "error_rest"]
    return [*names, *(of_features if features else [])]


def taken_off(found: Attributed) -> Mapping[str, Tensor]:
    """The KL at the ends of the paths, and what every part takes off it, of every token.

    `constant`, `pairs` and so on make up the path from the linear part to all of the NFM; `sae` is that from
    the decoder's bias to the SAE's reconstruction, `linear` that on to the linear part, and `error_…` are
    parts of the way from the SAE's reconstruction to the activation: the linear part, the interactions and
    what remains.
    """
    values = {f"kl_{name}": kl for name, kl in found.kl.items()} | {"constant": found.path.bias}
    values |= {SETS[order]: found.path.taken_off(order) for order in found.interactions.orders}
    if found.sae is None or found.linear is None or found.error is None:
        return values
    parts = found.parts
    assert parts.linear is not None
    assert parts.interaction is not None
    of_error = found.error.taken_off
    return values | {
        "sae": found.sae.taken_off(found.sae.way),
        "linear": found.linear.taken_off(found.linear.way),
        "error_linear": of_error(parts.linear),
        "error_interactions": of_error(parts.interaction),
        "error_rest": of_error(parts.x - parts.whole),
    }
