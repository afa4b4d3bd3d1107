"""Training on activations, token by token: the SAE, the NFM on its residual, or both together."""

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from sae_nfm.measures.quality import DictionaryQuality
from sae_nfm.models.autoencoder import Autoencoder, Explained
from sae_nfm.models.saes.firing import Firing
from sae_nfm.store.company import ALONE
from sae_nfm.training.learning import OptimizerFactory
from sae_nfm.training.objectives.reconstruction import Reconstruction
from sae_nfm.training.parts import Made, Part, make, train_only
from sae_nfm.training.schedule import Schedule

_NEAR = 0.1  # relative excess of L0 over its target that is none


class DictionaryTask(LightningModule):
    """What both stages share: the optimizer, the schedule, and validation on held-out documents.

    Args:
        autoencoder: holds what is trained; its other parameters are frozen.
        objective: the loss.
        optimizer: an optimizer that lacks only its parameters.
        schedule: of the learning rate, by step.
        seed: what dropout is drawn from, together with the step and the rank.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        objective: Reconstruction,
        optimizer: OptimizerFactory,
        schedule: Schedule,
        seed: int,
    ) -> None:
        super().__init__()
        self.autoencoder, self.objective = autoencoder, objective
        self.optimizer, self.schedule, self.seed = optimizer, schedule, seed
        self.quality = DictionaryQuality(autoencoder.sae.d_in, autoencoder.sae.d_sae)

    def configure_optimizers(self) -> Any:
        """Adam or its like over what is not frozen, with the schedule stepped every batch."""
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.schedule.scheduler(optimizer), "interval": "step"},
        }

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip and log the norm, of fused optimizers too, which Lightning refuses under mixed precision."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)  # Lightning leaves that to the step of a fused optimizer
        figures = {"train/lr": optimizer.param_groups[0]["lr"]}
        if gradient_clip_val:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            figures["train/grad_norm"] = nn.utils.clip_grad_norm_(parameters, gradient_clip_val)
        self.log_step(figures)

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
        """Seed dropout by the step, so that a resumed run draws what an uninterrupted one does."""
        seed = (self.seed * 1_000_003 + self.global_step) * 4096 + self.global_rank
        on_cpu = self.device.type == "cpu"  # seeding devices that nothing has used yet takes a millisecond
        (torch.default_generator.manual_seed if on_cpu else torch.manual_seed)(seed)

    def log_step(self, figures: Mapping[str, Any]) -> None:
        """Log figures of a training step, if it is one whose figures the trainer hands to its loggers."""
        every = self.trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if (self.global_step + 1) % every == 0:
            self.log_dict(figures)

    def validation_step(self, batch: Float[Tensor, "token d_in"], batch_idx: int) -> None:
        """Add a batch of held-out activations to the quality sums."""
        self.quality.update(self.autoencoder(batch))

    def on_validation_epoch_end(self) -> None:
        """Log explained variance, L0, dead latents and the explained residual."""
        for name, value in self.quality.compute().items():
            if value is not None:
                self.log(f"validation/{name}", value, prog_bar=name == self.watched)
        self.quality.reset()

    def score(self, figures: Mapping[str, Tensor]) -> float:
        """How good the weights are, by the figures of a validation: the best that were seen are kept."""
        return float(figures[f"validation/{self.watched}"])

    watched = "explained_variance"
    """The figure of the validation that chooses among weights."""
    least = 0.0
    """Below this value of it something is broken: for an SAE, the mean is the better reconstruction."""
    optimizer_setting = "sae_optimizer"
    """The setting that chooses the optimizer."""


class SAETask(DictionaryTask):
    """Train the SAE, or parts of a whole dictionary together, by one reconstruction and the family's terms.

    Args:
        autoencoder: what is trained; everything of it is evaluated.
        objective: the loss.
        optimizer: an optimizer that lacks only its parameters.
        schedule: of the learning rate, by step.
        seed: what dropout is drawn from, together with the step and the rank.
        parts: what is trained; the rest is frozen.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        objective: Reconstruction,
        optimizer: OptimizerFactory,
        schedule: Schedule,
        seed: int,
        parts: Collection[Part] = ("sae",),
    ) -> None:
        super().__init__(autoencoder, objective, optimizer, schedule, seed)
        self.parts, self.firing = parts, Firing(autoencoder.sae.d_sae)
        train_only(autoencoder, parts)

    def score(self, figures: Mapping[str, Tensor]) -> float:
        """Explained variance of the whole, less what L0 is above its target: more latents explain more."""
        left = 1 - super().score(figures)
        if self.autoencoder.nfm is not None:
            left *= 1 - float(figures["validation/residual_explained"])
        return 1 - left - self.excess(figures)

    def excess(self, figures: Mapping[str, Tensor]) -> float:
        """By what fraction L0 is above its target, where that is noticeable."""
        return max(0.0, float(figures["validation/l0"]) / self.autoencoder.sae.l0 - 1 - _NEAR)

    def training_step(self, batch: Float[Tensor, "token d_in"], batch_idx: int) -> Tensor:
        """One step on a batch of raw activations."""
        made = make(self.autoencoder, batch, self.parts, self.firing)
        fvu = self.objective.of_activation(made.target, made.reconstruction)
        terms = self.terms(made, len(batch))
        loss = sum(terms.values(), start=fvu)
        self.log_step({"train/loss": loss, "train/fvu": fvu})
        return loss

    def terms(self, made: Made, num_tokens: int) -> dict[str, Float[Tensor, ""]]:
        """The family's own terms, where the SAE is trained; what fired is counted, and all is logged."""
        attempt = made.attempt
        if attempt is None:
            return {}
        fired, l0, world_size = attempt.fired, attempt.l0, self.trainer.world_size
        if world_size > 1:
            fired = self.trainer.strategy.reduce(fired.long(), reduce_op="sum") > 0
            l0 = self.trainer.strategy.reduce(l0, reduce_op="mean")
        self.firing.count(fired, l0, num_tokens * world_size)
        terms = {f"train/{name}": value for name, value in attempt.terms.items()}
        self.log_step({"train/l0": attempt.l0, **terms})
        return attempt.terms

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Let the family change its gradients."""
        if "sae" in self.parts:
            self.autoencoder.sae.before_step_()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and let the family mend what the step broke before any checkpoint is written."""
        super().optimizer_step(*args, **kwargs)
        if "sae" in self.parts:
            self.autoencoder.sae.after_step_()


class NFMTask(DictionaryTask):
    """Train the autoencoder's NFM, or what stands in its place, on the residual of the frozen SAE."""

    company = ALONE
    """The studies of this process."""
    on = ""
    """Identifies the SAE among theirs, with what is planted on it."""
    watched = "residual_explained"
    least = -math.inf  # a linear part that was solved on too few tokens may be worse than none
    optimizer_setting = "nfm_optimizer"

    def setup(self, stage: str) -> None:
        """Freeze the SAE."""
        self.autoencoder.sae.requires_grad_(False)

    def training_step(self, batch: Float[Tensor, "token d_in"], batch_idx: int) -> Tensor:
        """One step on a batch of raw activations."""
        assert self.autoencoder.nfm is not None
        explained = self._explained(batch)
        predicted = self.autoencoder.nfm(explained.codes).total
        loss = self.objective.of_residual(explained.target - explained.decoded, predicted)
        self.log_step({"train/loss": loss})
        return loss

    def validation_step(self, batch: Float[Tensor, "token d_in"], batch_idx: int) -> None:
        """As of every dictionary; studies on the same SAE have its codes computed once."""
        self.quality.update(self.autoencoder.parts(batch, self._explained(batch)))

    @torch.no_grad()
    def _explained(self, batch: Float[Tensor, "token d_in"]) -> Explained:
        """What the SAE makes of a batch, which studies that read the same have in the same place."""
        where = (self.on, batch.data_ptr(), batch.shape)
        place = self.global_step * len(batch)

        def explain() -> tuple[Tensor, Explained]:  # with the batch, so that no other can be in its place
            return batch, self.autoencoder.explain(batch)

        return self.company.once(where, explain, place)[1]
