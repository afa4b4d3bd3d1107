"""Runs that are cut off and go on, runs that break, and what is left on disk."""

import errno
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from lightning import Callback
from safetensors.torch import load_file
from torch.optim.lr_scheduler import LambdaLR

from full_disks import small_disk
from sae_nfm.measures.finite import NonFinite
from sae_nfm.measures.quality import DictionaryQuality
from sae_nfm.training import run as running
from sae_nfm.training.checkpoints import BEFORE, HASHES, LAST
from sae_nfm.training.curve import CURVE, read_curve
from sae_nfm.training.objectives.reconstruction import Reconstruction
from sae_nfm.training.run import CHECKPOINTS
from sae_nfm.training.weights import WEIGHTS, load_weights, read_metrics, save_weights
from small_training import Bench, InterruptAt, Interrupted, Losses

STAGES = ("sae", "nfm")


@pytest.fixture(scope="module")
def bench(lm, splits):
    return Bench(lm, splits)


@pytest.fixture(scope="module")
def uninterrupted(bench, tmp_path_factory):
    """The folders of both stages, run without a break."""
    folders = {stage: tmp_path_factory.mktemp("uninterrupted") / stage for stage in STAGES}
    for stage, folder in folders.items():
        bench.train(bench.task(stage), folder)
    return folders


def assert_equal_bit_for_bit(found, expected):
    assert read_curve(found) == read_curve(expected)
    found, expected = load_file(found / WEIGHTS), load_file(expected / WEIGHTS)
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), f"{name} differs by {(found[name] - tensor).abs().max()}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_is_reproducible(bench, uninterrupted, tmp_path, stage):
    bench.train(bench.task(stage), tmp_path)
    assert_equal_bit_for_bit(tmp_path, uninterrupted[stage])


# Checkpoints are at 50 and 100; a pool holds 10 steps, so that 50 is between two pools and 73 within one.
@pytest.mark.parametrize("step", [73, 119])
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_is_resumed_equals_one_that_was_not_interrupted(
    bench, uninterrupted, tmp_path, stage, step
):
    with pytest.raises(Interrupted):
        bench.train(bench.task(stage), tmp_path, InterruptAt(step))
    assert not (tmp_path / WEIGHTS).exists()
    kept = {path.name for path in (tmp_path / CHECKPOINTS).iterdir()}
    assert kept == {HASHES, LAST, *([BEFORE] if step > 100 else [])}

    losses = Losses()
    bench.train(bench.task(stage), tmp_path, losses)

    assert len(losses.values) == 120 - step // 50 * 50
    assert_equal_bit_for_bit(tmp_path, uninterrupted[stage])


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_was_cut_off_after_its_last_step_only_writes_its_weights(
    bench, tmp_path, monkeypatch, stage
):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    bench.train(bench.task(stage, steps=50), whole)

    def cut_off(*_):
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(running, "save_weights", cut_off)
        with pytest.raises(Interrupted):
            bench.train(bench.task(stage, steps=50), cut)
    losses = Losses()
    bench.train(bench.task(stage, steps=50), cut, losses)

    assert losses.values == []
    assert_equal_bit_for_bit(cut, whole)


@pytest.mark.parametrize("stage", STAGES)
def test_a_finished_stage_leaves_weights_metrics_and_curve_and_nothing_else(bench, uninterrupted, stage):
    folder = uninterrupted[stage]
    assert sorted(path.name for path in folder.iterdir()) == [CURVE, "metrics.json", WEIGHTS]
    metrics = read_metrics(folder)
    assert metrics["train_tokens"] == 120 * 64
    assert metrics["processes"] == 1
    assert 10 < metrics["tokens_per_s"] < 1e7
    assert 0.1 < metrics["peak_memory_gb"] < 100
    assert metrics["steps"] == 120
    assert 0 < metrics["explained_variance"] < 1
    assert metrics["l0"] == pytest.approx(4, abs=0.5)
    assert ("residual_explained" in metrics) == (stage == "nfm")


@pytest.mark.parametrize("stage", STAGES)
def test_the_curve_has_the_mean_loss_and_every_validation(bench, uninterrupted, tmp_path, stage):
    losses = Losses()
    bench.train(bench.task(stage), tmp_path, losses)
    curve, metrics = read_curve(tmp_path), read_metrics(tmp_path)
    assert curve["tokens_per_step"] == 64
    assert [step for step, _ in curve["loss"]] == list(range(2, 121, 2))
    means = np.reshape(losses.values, (60, 2)).mean(1)
    assert [value for _, value in curve["loss"]] == pytest.approx(means, rel=1e-6)
    steps, values = zip(*curve["validation"], strict=True)
    assert (steps[0], steps[-1], len(set(steps))) == (0, 120, len(steps))
    assert metrics["best_step"] in steps
    assert values[steps.index(metrics["best_step"])] == pytest.approx(metrics[curve["watched"]])
    assert curve["watched"] == ("explained_variance" if stage == "sae" else "residual_explained")


def test_weights_are_read_back_as_they_were_trained(bench, uninterrupted):
    autoencoder = bench.autoencoder()
    load_weights(autoencoder, uninterrupted["sae"] / WEIGHTS)
    for name, tensor in load_file(uninterrupted["sae"] / WEIGHTS).items():
        assert torch.equal(autoencoder.state_dict()[name], tensor)
    assert {"normalizer.mean", "normalizer.scale"} <= set(autoencoder.state_dict())


def tensors_in(value):
    """All tensors anywhere in a checkpoint."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


@pytest.mark.parametrize("stage", STAGES)
def test_the_models_weights_are_in_no_checkpoint(bench, lm, tmp_path, stage):
    task = bench.task(stage)
    with pytest.raises(Interrupted):
        bench.train(task, tmp_path, InterruptAt(51))
    checkpoint = torch.load(tmp_path / CHECKPOINTS / "last.ckpt", weights_only=True)
    assert set(checkpoint["state_dict"]) == set(task.state_dict())
    assert {name.partition(".")[0] for name in checkpoint["state_dict"]} <= {
        "autoencoder",
        "firing",
    }
    held = sum(tensor.numel() for tensor in tensors_in(checkpoint))
    trained = sum(tensor.numel() for tensor in task.state_dict().values())
    assert trained < held < 4 * trained  # weights and Adam's two moments
    shapes = {tensor.shape for tensor in tensors_in(checkpoint)}
    assert torch.Size((lm.d_vocab, lm.d_model)) not in shapes


class BreaksAt(Reconstruction):
    """Makes the loss, or only its gradient, NaN from a step on."""

    def __init__(self, step, gradient_only=False):
        self.step, self.gradient_only, self.steps = step, gradient_only, 0

    def of_activation(self, x, reconstruction):
        return self._broken(super().of_activation(x, reconstruction))

    def of_residual(self, residual, predicted):
        return self._broken(super().of_residual(residual, predicted))

    def _broken(self, loss):
        self.steps += 1
        if self.steps < self.step:
            return loss
        if self.gradient_only and self.steps == self.step:
            return loss + (loss - loss).sqrt() * 0.0  # 0, and its slope is inf · 0
        return loss * torch.nan


def assert_last_good_checkpoint_is_kept(folder, step):
    checkpoint = torch.load(folder / CHECKPOINTS / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == step
    kept = (checkpoint["state_dict"], checkpoint["optimizer_states"])
    assert all(tensor.isfinite().all() for tensor in tensors_in(kept))
    assert not (folder / WEIGHTS).exists()


@pytest.mark.parametrize(("stage", "name"), [("sae", "SAETask"), ("nfm", "NFMTask")])
def test_a_loss_that_is_nan_ends_the_run_with_the_last_good_checkpoint(bench, tmp_path, stage, name):
    with pytest.raises(NonFinite) as error:
        bench.train(bench.task(stage, objective=BreaksAt(60)), tmp_path)
    message = str(error.value)
    assert f"the loss of {name} is nan at step 100" in message
    assert str(tmp_path / CHECKPOINTS) in message
    assert "learning rate" in message
    assert_last_good_checkpoint_is_kept(tmp_path, 50)


def test_where_there_is_no_checkpoint_yet_none_is_spoken_of(bench, tmp_path):
    with pytest.raises(NonFinite, match="nan at step 50") as error:
        bench.train(bench.task("sae", objective=BreaksAt(10)), tmp_path)
    assert "checkpoint" not in str(error.value)


@pytest.mark.parametrize(("stage", "figure"), [("sae", "explained_variance"), ("nfm", "residual_explained")])
def test_what_explains_less_than_nothing_is_not_stored(bench, tmp_path, stage, figure):
    task = bench.task(stage, steps=10)
    task.least = 2.0
    with pytest.raises(NonFinite, match=f"{stage}: its {figure} on validation documents is ") as error:
        bench.train(task, tmp_path)
    assert f"{stage}_optimizer.lr" in str(error.value)
    assert not (tmp_path / WEIGHTS).exists()


def test_where_no_validation_gives_a_number_nothing_is_stored(bench, tmp_path, monkeypatch):
    compute = DictionaryQuality.compute
    monkeypatch.setattr(
        DictionaryQuality, "compute", lambda quality: compute(quality) | {"explained_variance": torch.nan}
    )
    with pytest.raises(NonFinite, match="sae: its explained_variance on validation documents is nan"):
        bench.train(bench.task("sae", steps=10), tmp_path)
    assert not (tmp_path / WEIGHTS).exists()


@pytest.mark.parametrize(("stage", "least"), [("sae", 0.0), ("nfm", -torch.inf)])
@pytest.mark.parametrize("figure", [torch.nan, -torch.inf, torch.inf, -6e28])
def test_figures_of_overflowed_sums_are_absurd(bench, stage, least, figure):
    task = bench.task(stage)
    assert task.least == least
    if (stage, figure) == ("nfm", -6e28):
        return running._refuse_the_absurd(stage, task, figure)
    with pytest.raises(NonFinite, match="nothing is stored"):
        running._refuse_the_absurd(stage, task, figure)


def test_a_loss_that_is_nan_in_the_step_of_a_checkpoint_does_not_reach_it(bench, tmp_path):
    with pytest.raises(NonFinite, match="nan at step 100"):
        bench.train(bench.task("sae", objective=BreaksAt(100)), tmp_path)
    assert_last_good_checkpoint_is_kept(tmp_path, 50)


def test_a_loss_that_is_nan_in_the_last_step_leaves_no_artifact(bench, tmp_path):
    with pytest.raises(NonFinite, match="nan at step 120"):
        bench.train(bench.task("sae", objective=BreaksAt(120)), tmp_path)
    assert_last_good_checkpoint_is_kept(tmp_path, 100)


@pytest.mark.parametrize(("step", "kept"), [(100, 50), (120, 100)])
def test_a_gradient_that_is_nan_beside_a_finite_loss_reaches_neither_checkpoint_nor_artifact(
    bench, tmp_path, step, kept
):
    """The step of the checkpoint, and the last one, break the weights only after their loss was computed."""
    with pytest.raises(NonFinite):
        bench.train(bench.task("sae", objective=BreaksAt(step, gradient_only=True)), tmp_path)
    assert_last_good_checkpoint_is_kept(tmp_path, kept)


def test_where_training_finds_nothing_the_untrained_start_is_kept(bench, tmp_path):
    """A learning rate that only does damage: what is stored corrects nothing."""
    task = bench.nfm_task(lr=10.0)
    bench.train(task, tmp_path)
    metrics, weights = read_metrics(tmp_path), load_file(tmp_path / WEIGHTS)
    assert metrics["best_step"] == 0
    assert metrics["residual_explained"] == 0
    assert weights["head.W_out"].abs().max() == weights["W_lin"].abs().max() == 0


# Checkpoints and validations are both at 50 and 100; the best is found at 50, after its checkpoint.
@pytest.mark.parametrize("step", [50, 51, 73])
def test_a_resumed_run_keeps_the_best_weights_that_an_uninterrupted_one_does(bench, tmp_path, step):
    def task():
        made = bench.nfm_task(steps=100, lr=1e-2)
        made.schedule = WorseAfter(50)
        return made

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    bench.train(task(), whole)
    assert read_metrics(whole)["best_step"] == 50
    with pytest.raises(Interrupted):
        bench.train(task(), cut, InterruptAt(step))
    bench.train(task(), cut)
    assert read_metrics(cut)["best_step"] == 50
    assert_equal_bit_for_bit(cut, whole)


class WorseAfter:
    """A learning rate that ruins the weights from some step on."""

    num_steps = 100

    def __init__(self, step):
        self.step = step

    def scheduler(self, optimizer):
        return LambdaLR(optimizer, lambda step: 1.0 if step < self.step else 1000.0)


class StopAt(Callback):
    """Asks Lightning to end a run early."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.should_stop = trainer.global_step >= 20


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_ends_early_stores_nothing(bench, tmp_path, stage):
    with pytest.raises(RuntimeError, match=f"{stage}: the training ended after 20 of 120 steps"):
        bench.train(bench.task(stage), tmp_path, StopAt())
    assert not (tmp_path / WEIGHTS).exists()


@pytest.mark.parametrize("stage", STAGES)
def test_weights_of_half_precision_are_evaluated_as_they_are_stored(bench, tmp_path, stage):
    task = bench.task(stage, steps=10)
    module = task.autoencoder if stage == "sae" else task.autoencoder.nfm
    module.to(torch.bfloat16)
    save_weights(module, tmp_path / WEIGHTS)
    load_weights(module, tmp_path / WEIGHTS)
    for name, tensor in load_file(tmp_path / WEIGHTS).items():
        assert tensor.dtype == torch.bfloat16
        assert module.state_dict()[name].dtype == torch.float32
        assert torch.equal(module.state_dict()[name], tensor.float())


def test_weights_of_double_precision_stay_so(bench, tmp_path):
    module = bench.task("sae", steps=10).autoencoder.double()
    save_weights(module, tmp_path / WEIGHTS)
    expected = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    load_weights(module.float(), tmp_path / WEIGHTS)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, expected[name])
        assert tensor.dtype == torch.float64


def test_weights_that_find_no_room_are_told_as_a_full_disk(tmp_path):
    with small_disk(tmp_path / "disk", 64):
        with pytest.raises(OSError, match="No space left on device") as error:
            save_weights(torch.nn.Linear(300, 300), tmp_path / "disk" / WEIGHTS)
        assert error.value.errno == errno.ENOSPC


def test_checkpoints_are_there_until_whoever_keeps_the_curves_has_them(bench, tmp_path):
    """A network that is waited for may have the user interrupt the run."""

    @contextmanager
    def logger(stage, folder, tokens_per_step):
        yield False
        assert list((folder / CHECKPOINTS).iterdir())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.train(bench.task("sae"), tmp_path, logger=logger)
    bench.train(bench.task("sae"), tmp_path)
    assert not (tmp_path / CHECKPOINTS).exists()
