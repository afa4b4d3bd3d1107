"""The two training stages: the SAE, then the NFM on its residual."""

import math
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.training.objectives import Reconstruction
from sae_nfm.training.quality import DictionaryQuality
from sae_nfm.training.schedule import Schedule


class OptimizerFactory(Protocol):
    """An optimizer that lacks only its parameters."""

    def __call__(self, params: Iterable[nn.Parameter]) -> Optimizer:
        """Bind it to parameters."""
        ...


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
        """Clip the norm, of fused optimizers too, which Lightning refuses under every mixed precision."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)  # Lightning leaves that to the step of a fused optimizer
        if gradient_clip_val:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, gradient_clip_val)

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
        """Seed dropout by the step, so that a resumed run draws what an uninterrupted one does."""
        torch.manual_seed((self.seed * 1_000_003 + self.global_step) * 4096 + self.global_rank)

    def validation_step(self, batch: Float[Tensor, "token d_in"], batch_idx: int) -> None:
        """Add a batch of held-out activations to the quality sums."""
        self.quality.update(self.autoencoder(batch))

    def on_validation_epoch_end(self) -> None:
        """Log explained variance, L0, dead latents and the explained residual."""
        for name, value in self.quality.compute().items():
            if value is not None:
                self.log(f"validation/{name}", value, prog_bar=name == self.watched)
        self.quality.reset()

    watched = "explained_variance"
    """The figure of the validation that chooses among weights."""
    least = 0.0
    """Below this value of it something is broken: for an SAE, the mean is the better reconstruction."""
    optimizer_setting = "sae_optimizer"
    """The setting that chooses the optimizer."""


class SAETask(DictionaryTask):
    """Train the SAE; a latent counts as dead after `dead_after` tokens without firing."""

    tokens_since_fired: Tensor

    def __init__(
        self,
        autoencoder: Autoencoder,
        objective: Reconstruction,
        optimizer: OptimizerFactory,
        schedule: Schedule,
        seed: int,
        dead_after: int,
    ) -> None:
        super().__init__(autoencoder, objective, optimizer, schedule, seed)
        self.dead_after = dead_after
        self.register_buffer("tokens_since_fired", torch.zeros(autoencoder.sae.d_sae, dtype=torch.int64))

    def training_step(self, batch: Float[Tensor, "token d_in"], batch_idx: int) -> Tensor:
        """One step on a batch of raw activations."""
        sae = self.autoencoder.sae
        x = self.autoencoder.normalizer(batch)
        codes = sae.encode(x)
        loss = self.objective.sae_loss(sae, x, sae.decode(codes), self.tokens_since_fired > self.dead_after)
        self._count_firing(codes.indices[codes.values > 0], len(batch))
        self.log_dict({"train/loss": loss.total, "train/fvu": loss.fvu, "train/auxk": loss.auxk})
        return loss.total

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Keep the decoder's gradient orthogonal to its rows."""
        self.autoencoder.sae.project_decoder_gradient_()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and bring the decoder's rows back to unit norm before any checkpoint is written."""
        super().optimizer_step(*args, **kwargs)
        self.autoencoder.sae.normalize_decoder_()

    def _count_firing(self, fired: Tensor, num_tokens: int) -> None:
        count = torch.zeros_like(self.tokens_since_fired).index_fill_(0, fired, 1)
        if self.trainer.world_size > 1:
            count = self.trainer.strategy.reduce(count, reduce_op="sum")
        self.tokens_since_fired += num_tokens * self.trainer.world_size
        self.tokens_since_fired[count > 0] = 0


class NFMTask(DictionaryTask):
    """Train the autoencoder's NFM, or what stands in its place, on the residual of the frozen SAE."""

    watched = "residual_explained"
    least = -math.inf  # a linear part that was solved on too few tokens may be worse than none
    optimizer_setting = "nfm_optimizer"

    def setup(self, stage: str) -> None:
        """Freeze the SAE."""
        self.autoencoder.sae.requires_grad_(False)

    def training_step(self, batch: Float[Tensor, "token d_in"], batch_idx: int) -> Tensor:
        """One step on a batch of raw activations."""
        assert self.autoencoder.nfm is not None
        with torch.no_grad():
            explained = self.autoencoder.explain(batch)
        predicted = self.autoencoder.nfm(explained.codes).total
        loss = self.objective.residual_loss(explained.target - explained.decoded, predicted)
        self.log("train/loss", loss)
        return loss
