"""A training stage of some hundred steps on the embedded LM, and what its tests ask of it."""

from contextlib import nullcontext
from functools import partial

import torch
from lightning import Callback, Trainer

from sae_nfm.data.activations import ActivationModule, ActivationStream, Pool
from sae_nfm.lm.site import Site
from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.normalizer import Normalizer
from sae_nfm.models.saes.topk import TopKSAE
from sae_nfm.training.objectives.reconstruction import Reconstruction
from sae_nfm.training.run import Run, train
from sae_nfm.training.schedule import Schedule
from sae_nfm.training.tasks import NFMTask, SAETask
from small_models import make_nfm

SITE = Site(1, "resid_post")
BATCH, POOL = 64, 640
OBJECTIVE = Reconstruction()


class Interrupted(Exception):
    """A power cut."""


class InterruptAt(Callback):
    """Ends a run after a number of steps."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            raise Interrupted


class Losses(Callback):
    """Keeps the loss of every step."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(outputs["loss"].item())


class Bench:
    """Builds and trains the two stages, the same way every time."""

    def __init__(self, lm, splits):
        self.lm, self.splits = lm, splits

    def data(self):
        training = ActivationStream(self.lm, SITE, self.splits.train, 40, 0)
        validation = ActivationStream(self.lm, SITE, self.splits.validation, 40, 0)
        return ActivationModule(training, validation, Pool(POOL, BATCH), validation_tokens=300, seed=0)

    def autoencoder(self, dead_after=1000):
        """An SAE whose normaliser and bias were fitted, as a study does."""
        torch.manual_seed(0)
        autoencoder = Autoencoder(
            Normalizer(self.lm.d_model), TopKSAE(self.lm.d_model, 64, 4, "mean", None, 0.03125, dead_after)
        )
        sample = self.data().training.read(0, 2000)
        autoencoder.normalizer.fit(sample)
        autoencoder.sae.initialize_(autoencoder.normalizer(sample))
        return autoencoder

    def sae_task(self, steps=120, objective=OBJECTIVE, dead_after=1000, lr=1e-2):
        schedule, optimizer = Schedule(steps, 0.1, 0.3), partial(torch.optim.Adam, lr=lr)
        return SAETask(self.autoencoder(dead_after), objective, optimizer, schedule, seed=0)

    def nfm_task(self, steps=120, objective=OBJECTIVE, lr=1e-2):
        autoencoder = self.autoencoder()
        autoencoder.nfm = make_nfm(64, self.lm.d_model, dropout=0.5)
        autoencoder.nfm.initialize_(autoencoder.explain(self.data().training.read(0, 2000)).codes)
        schedule, optimizer = Schedule(steps, 0.1, 0.3), partial(torch.optim.Adam, lr=lr)
        return NFMTask(autoencoder, objective, optimizer, schedule, seed=0)

    def task(self, stage, **settings):
        return self.sae_task(**settings) if stage == "sae" else self.nfm_task(**settings)

    def train(
        self, task, folder, *callbacks, logger=lambda *about: nullcontext(False),
        gradient_clip=1.0, precision="32-true",
    ):  # fmt: skip
        """The stage as a study runs it; `callbacks` come before its own."""
        folder.mkdir(exist_ok=True)

        def trainer(**settings):
            settings["callbacks"] = [*callbacks, *settings["callbacks"]]
            return Trainer(accelerator="cpu", devices=1, precision=precision, **settings)

        run = Run(
            trainer=trainer,
            logger=logger,
            gradient_clip=gradient_clip,
            checkpoint_every=50,
            validations=2,
        )
        stage = "sae" if isinstance(task, SAETask) else "nfm"
        trained = task.autoencoder if stage == "sae" else task.autoencoder.nfm
        train(stage, task, self.data(), trained, run, folder)
