"""Both tasks on a small run: what is trained, what is kept, what is left alone."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from lightning import Callback

from sae_nfm.models.normalizer import Normalizer
from sae_nfm.training.weights import read_metrics
from small_training import BATCH, Bench, Losses


@pytest.fixture(scope="module")
def bench(lm, splits):
    return Bench(lm, splits)


class DecoderNorms(Callback):
    """How far the decoder's rows are from unit norm as each step begins."""

    def __init__(self):
        self.furthest = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        norms = pl_module.autoencoder.sae.W_dec.detach().norm(dim=1)
        self.furthest.append((norms - 1).abs().max().item())


@pytest.fixture(scope="module")
def sae_run(bench, tmp_path_factory):
    """A trained SAE task, the losses of its steps, and its decoder's norms."""
    task, losses, norms, folder = bench.sae_task(), Losses(), DecoderNorms(), tmp_path_factory.mktemp("sae")
    bench.train(task, folder, losses, norms)
    return task, losses.values, norms.furthest, folder


@pytest.fixture(scope="module")
def nfm_run(bench, tmp_path_factory):
    """A trained NFM task, the state of its autoencoder before, and the losses of its steps."""
    task, losses, folder = bench.nfm_task(), Losses(), tmp_path_factory.mktemp("nfm")
    before = {name: tensor.clone() for name, tensor in task.autoencoder.state_dict().items()}
    bench.train(task, folder, losses)
    return task, before, losses.values, folder


def mean(values):
    return sum(values) / len(values)


def test_training_an_sae_lowers_its_loss(sae_run):
    _, losses, _, _ = sae_run
    assert len(losses) == 120
    assert mean(losses[-10:]) < 0.7 * mean(losses[:10])


def test_the_decoder_stays_unit_norm(sae_run):
    task, _, furthest, _ = sae_run
    assert max(furthest) < 1e-5
    torch.testing.assert_close(task.autoencoder.sae.W_dec.norm(dim=1), torch.ones(64))


def test_every_parameter_of_the_sae_is_trained_and_the_normaliser_is_not(bench, sae_run):
    before, after = bench.autoencoder().state_dict(), sae_run[0].autoencoder.state_dict()
    unchanged = {name for name in before if torch.equal(before[name], after[name])}
    assert unchanged == {"normalizer.mean", "normalizer.scale"}


def test_training_an_nfm_explains_some_of_the_residual(nfm_run):
    _, _, losses, folder = nfm_run
    assert losses[0] > 0.9  # the linear part starts at 0 and the loss is the share that is left
    assert mean(losses[-10:]) < 0.9 * mean(losses[:10])
    assert 0.05 < read_metrics(folder)["residual_explained"] < 1


def test_the_frozen_sae_is_unchanged_by_the_nfms_training(nfm_run):
    task, before, _, _ = nfm_run
    after = task.autoencoder.state_dict()
    frozen = [name for name in before if not name.startswith("nfm.")]
    assert {"sae.W_dec", "sae.b_dec", "sae.b_enc", "normalizer.scale"} <= set(frozen)
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    trained = {f"nfm.{name}" for name, _ in task.autoencoder.nfm.named_parameters()}
    assert {name for name in before if not torch.equal(before[name], after[name])} == trained
    assert not any(parameter.requires_grad for parameter in task.autoencoder.sae.parameters())


class Step:
    """Stands for a trainer, for a single step without one."""

    world_size = 1
    global_step = 3
    global_rank = 0
    log_every_n_steps = 1


@pytest.fixture
def batch(bench):
    return bench.data().training.read(0, BATCH)


def stepping(task):
    """The task ready for `training_step` alone."""
    task._trainer, task.log, task.log_dict = Step(), lambda *_, **__: None, lambda *_, **__: None
    return task


def test_the_losses_are_of_the_reconstruction_that_is_spliced(bench, batch):
    """Training in normalised units and the autoencoder in the model's see the same error."""
    for make, part in ((bench.sae_task, ""), (bench.nfm_task, "nfm")):
        task = stepping(make()).eval()
        task.autoencoder.normalizer = Normalizer(batch.shape[1], "per_dimension")
        task.autoencoder.normalizer.fit(batch)
        if part:
            torch.nn.init.normal_(task.autoencoder.nfm.W_lin, std=0.1)
        scale = task.autoencoder.normalizer.scale
        parts = task.autoencoder(batch)
        left = batch - parts.sae - (parts.linear + parts.interaction if part else 0)
        whole = batch - parts.sae if part else batch - batch.mean(0)
        expected = (left / scale).pow(2).sum() / (whole / scale).pow(2).sum()
        assert task.training_step(batch, 0).item() == pytest.approx(expected.item(), rel=1e-4)


def test_tokens_since_a_latent_fired_are_counted(bench, batch):
    task = stepping(bench.sae_task())
    codes = task.autoencoder(batch).codes
    fired = torch.zeros(64, dtype=torch.bool).index_fill_(0, codes.indices[codes.values > 0], True)
    assert 0 < fired.sum() < 64
    for steps in (1, 2):
        task.training_step(batch, 0)
        assert (task.firing.tokens_since[fired] == 0).all()
        assert (task.firing.tokens_since[~fired] == steps * BATCH).all()


def test_a_latent_that_fires_in_any_process_counts_as_fired_in_all(bench, batch, monkeypatch):
    """Two processes, of which this one is one: in the other, latents 0 and 1 fire."""
    task = stepping(bench.sae_task())
    codes = task.autoencoder(batch).codes
    fired = torch.zeros(64, dtype=torch.bool).index_fill_(0, codes.indices[codes.values > 0], True)
    elsewhere = torch.zeros(64, dtype=torch.int64).index_fill_(0, torch.tensor([0, 1]), 1)
    monkeypatch.setattr(task.trainer, "world_size", 2)
    strategy = SimpleNamespace(reduce=lambda value, reduce_op: value + elsewhere if value.dim() else value)
    monkeypatch.setattr(task.trainer, "strategy", strategy, raising=False)
    task.training_step(batch, 0)
    anywhere = fired | (elsewhere > 0)
    assert (task.firing.tokens_since[anywhere] == 0).all()
    assert (task.firing.tokens_since[~anywhere] == 2 * BATCH).all()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_in_every_precision(bench, tmp_path, fused, precision):
    task = bench.sae_task(steps=5)
    task.optimizer = partial(torch.optim.Adam, lr=1e-3, fused=fused)
    norms = []

    class Norms(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            grads = [p.grad.norm() for p in pl_module.parameters() if p.grad is not None]
            norms.append(torch.stack(grads).norm().item())

    bench.train(task, tmp_path, Norms(), gradient_clip=1e-3, precision=precision)
    assert norms == pytest.approx([1e-3] * 5, rel=1e-3)


def test_a_latent_is_revived_after_as_many_tokens_as_asked_for(bench, batch):
    """AuxK takes part in the loss from the step on in which more than `dead_after` tokens have gone by."""
    task, seen = stepping(bench.sae_task(dead_after=2 * BATCH)), []
    task.log_dict = lambda values: seen.append("train/auxk" in values) if "train/l0" in values else None
    for _ in range(4):
        task.training_step(batch, 0)
    assert seen == [False, False, False, True]


def test_figures_are_logged_at_the_steps_whose_figures_are_handed_on(bench, batch):
    task, logged = stepping(bench.nfm_task()), []
    task.log_dict = lambda values: logged.append((task._trainer.global_step, *values))
    task._trainer.log_every_n_steps = 3
    for task._trainer.global_step in range(7):
        task.training_step(batch, 0)
    assert logged == [(2, "train/loss"), (5, "train/loss")]


def test_dropout_depends_on_the_step_and_the_rank_alone(bench, batch):
    task = stepping(bench.nfm_task()).train()
    torch.nn.init.normal_(task.autoencoder.nfm.head.W_out)  # from 0, dropout changes nothing

    def loss(step, rank=0, disturb=0):
        task._trainer.global_step, task._trainer.global_rank = step, rank
        torch.manual_seed(disturb)
        task.on_train_batch_start(batch, 0)
        return task.training_step(batch, 0).item()

    assert loss(3) == loss(3, disturb=99)
    assert len({loss(3), loss(4), loss(3, rank=1)}) == 3


def test_only_what_is_not_frozen_is_given_to_the_optimizer(bench):
    task = bench.nfm_task()
    task.setup("fit")
    optimizer = task.configure_optimizers()["optimizer"]
    given = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert given == {id(parameter) for parameter in task.autoencoder.nfm.parameters()}


def test_auxk_is_logged_and_part_of_the_loss(bench, batch):
    logged = {}
    task = stepping(bench.sae_task(dead_after=1))
    task.log_dict = logged.update
    task.firing.tokens_since += 2
    loss = task.training_step(batch, 0)
    assert logged["train/auxk"] > 0
    torch.testing.assert_close(loss, logged["train/fvu"] + logged["train/auxk"])


def test_weights_are_not_chosen_for_more_active_latents_than_were_asked_for(bench):
    task = bench.sae_task()
    assert task.autoencoder.sae.l0 == 4

    def score(explained, l0):
        figures = {"validation/explained_variance": explained, "validation/l0": l0}
        return task.score({name: torch.tensor(value) for name, value in figures.items()})

    assert score(0.9, 3.0) == score(0.9, 4.39) == pytest.approx(0.9)
    assert score(0.95, 8.0) < score(0.9, 4.0) < score(0.95, 4.2)
    task.autoencoder.sae.l0 = float("inf")
    assert score(0.9, 1e6) == pytest.approx(0.9)
