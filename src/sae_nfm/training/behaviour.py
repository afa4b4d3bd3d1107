"""Training for what the model does: blocks of tokens, spliced, and run on to their predictions."""

from collections.abc import Callable, Collection, Mapping

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchmetrics import MeanMetric

from sae_nfm.lm.model import LanguageModel
from sae_nfm.lm.passage import Passage
from sae_nfm.lm.site import Site
from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.store.company import ALONE, Company
from sae_nfm.training.learning import OptimizerFactory
from sae_nfm.training.objectives.behaviour import Behaviour
from sae_nfm.training.objectives.reconstruction import Reconstruction
from sae_nfm.training.parts import Part, make
from sae_nfm.training.schedule import Schedule
from sae_nfm.training.tasks import SAETask
from sae_nfm.training.through_model import SiteBatch, ThroughModel


class BehaviourTask(SAETask):
    """Train parts of a dictionary for an objective through the model.

    The family's own terms of the loss are weighted as they are against the fraction of variance unexplained:
    by what the objective is at the moment, over that fraction.

    Args:
        autoencoder: the whole dictionary.
        parts: what of it is trained.
        lm: the model, where the trainer computes; no part of this module's state.
        site: where it is spliced.
        counted: which positions of blocks are replaced and scored; the others keep their activation.
        blocks_at_once: that go through the suffix together.
        objective: the loss.
        optimizer: an optimizer that lacks only its parameters.
        schedule: of the learning rate, by step.
        seed: what dropout is drawn from, together with the step and the rank.
        company: the studies of this process.
    """

    least = -float("inf")

    def __init__(
        self,
        autoencoder: Autoencoder,
        parts: Collection[Part],
        lm: LanguageModel,
        site: Site,
        counted: Callable[[Tensor], Tensor],
        blocks_at_once: int,
        objective: Behaviour,
        optimizer: OptimizerFactory,
        schedule: Schedule,
        seed: int,
        company: Company = ALONE,
    ) -> None:
        super().__init__(autoencoder, Reconstruction(), optimizer, schedule, seed, parts)
        self.behaviour, self.lm, self.site, self.counted = objective, lm, site, counted
        self.passage = Passage(lm, site, objective.reads_streams, lm.checkpointing)
        of_all = company if autoencoder.plant is None else ALONE  # what is planted is the study's own
        self.through = ThroughModel(self.passage, objective, blocks_at_once, of_all)
        self.watched = objective.name
        self.loss = MeanMetric().set_dtype(torch.float64)

    def training_step(self, batch: Int64[Tensor, "block pos"], batch_idx: int) -> Tensor:
        """One step on blocks of tokens."""
        blocks, x = self.at_the_site(batch)
        made = make(self.autoencoder, x, self.parts, self.firing)
        replacement, clean = made.units.inverse(made.reconstruction), made.units.inverse(made.target)
        share = self._share(len(x))
        loss = share * self.through(replacement, blocks)
        if self.behaviour.adds_reconstruction:
            mse = share * (replacement - clean).pow(2).mean(-1).sum()
            loss = loss + self._over_processes(loss) / self._over_processes(mse) * mse
        fvu = self.objective.of_activation(made.target, made.reconstruction).detach()
        self.log_step({"train/loss": loss, "train/fvu": fvu})
        weight = loss.detach() / fvu
        return sum((weight * term for term in self.terms(made, len(x)).values()), start=loss)

    def validation_step(self, batch: Int64[Tensor, "block pos"], batch_idx: int) -> None:
        """Add blocks of held-out documents to the sums, as they are at inference."""
        blocks, x = self.at_the_site(batch)
        parts = self.autoencoder(x)
        self.quality.update(parts)
        self.loss.update(self.through(parts.whole, blocks) / len(parts.x), len(parts.x))

    @torch.no_grad()
    def at_the_site(
        self, tokens: Int64[Tensor, "block pos"]
    ) -> tuple[SiteBatch, Float[Tensor, "token d_model"]]:
        """Blocks at the site, and what the dictionary reads of their scored tokens.

        Where something is planted, it stands at every position of the blocks, as in the evaluation.
        """
        self.through.place = self.global_step * tokens.numel()
        company, what = self.through.company, ("prefix", self.passage.identity)
        prefix = company.once_of(what, tokens, lambda: self.passage.prefix(tokens), self.through.place)
        scored, x, dtype = self.counted(tokens), prefix.activation, self.autoencoder.normalizer.scale.dtype
        read = x[scored].to(dtype)
        if self.autoencoder.plant is not None:
            explained = self.autoencoder.explain(x.to(dtype))
            x = explained.units.inverse(explained.target)
        return SiteBatch(x, prefix.resid, tokens, scored), read

    def on_validation_epoch_end(self) -> None:
        """Log the objective, in its units, beside how good the reconstructions are."""
        self.log(f"validation/{self.watched}", self.loss.compute(), prog_bar=True)
        self.loss.reset()
        super().on_validation_epoch_end()

    def score(self, figures: Mapping[str, Tensor]) -> float:
        """The lower the objective the better; more active latents than asked for count against it."""
        return -float(figures[f"validation/{self.watched}"]) - self.excess(figures)

    def _share(self, num_tokens: int) -> float:
        """What makes a sum over this process's tokens its part of the mean over those of all."""
        number = torch.tensor(float(num_tokens), device=self.device)
        return self.trainer.world_size / float(self._over_processes(number, "sum"))

    def _over_processes(self, value: Tensor, how: str = "mean") -> Tensor:
        value = value.detach().clone()
        return self.trainer.strategy.reduce(value, reduce_op=how) if self.trainer.world_size > 1 else value
