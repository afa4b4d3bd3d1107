"""Checkpoints that were damaged, cut off or found no room: a run goes on from a whole one, and says so."""

import logging
import tempfile

import pytest
from lightning import Trainer
from safetensors.torch import load_file

from full_disks import no_space, small_disk
from sae_nfm.training.checkpoints import BEFORE, HASHES, LAST, Checkpoints, newest_checkpoint
from sae_nfm.training.run import CHECKPOINTS
from sae_nfm.training.weights import WEIGHTS
from small_training import Bench, InterruptAt, Interrupted, Losses


@pytest.fixture(scope="module")
def bench(lm, splits):
    return Bench(lm, splits)


@pytest.fixture(scope="module")
def uninterrupted(bench, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    bench.train(bench.task("sae"), folder)
    return load_file(folder / WEIGHTS)


def flip_a_bit(path):
    """In the middle of the file, where the weights are."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


def empty(path):
    path.write_bytes(b"")


def delete(path):
    path.unlink()


def assert_goes_on(bench, folder, steps, expected):
    """The same command does so many steps, and ends in the weights of an uninterrupted run."""
    losses = Losses()
    bench.train(bench.task("sae"), folder, losses)
    assert len(losses.values) == steps
    found = load_file(folder / WEIGHTS)
    assert all((found[name] == tensor).all() for name, tensor in expected.items())
    assert not (folder / CHECKPOINTS).exists()


@pytest.mark.parametrize(
    ("damaged", "damage", "told", "steps"),
    [
        ([LAST], flip_a_bit, [LAST], 70),
        ([LAST], truncate, [LAST], 70),
        ([LAST], empty, [LAST], 70),
        ([LAST], delete, [], 70),
        ([BEFORE], flip_a_bit, [], 20),
        ([LAST, BEFORE], empty, [LAST, BEFORE], 120),
        ([HASHES], empty, [LAST, BEFORE], 120),
    ],
)
def test_a_run_goes_on_from_what_is_whole(
    bench, uninterrupted, tmp_path, caplog, damaged, damage, told, steps
):
    with pytest.raises(Interrupted):
        bench.train(bench.task("sae"), tmp_path, InterruptAt(119))
    for name in damaged:
        damage(tmp_path / CHECKPOINTS / name)
    with caplog.at_level(logging.INFO):
        assert_goes_on(bench, tmp_path, steps, uninterrupted)
    assert [name for name in (LAST, BEFORE) if f"{name} is damaged" in caplog.text] == told
    if steps < 120:
        assert f"going on from {tmp_path / CHECKPOINTS}" in caplog.text
        assert f"step {120 - steps}" in caplog.text


def test_a_checkpoint_that_finds_no_room_leaves_the_one_before(bench, uninterrupted, tmp_path, monkeypatch):
    save = Trainer.save_checkpoint

    def save_half(trainer, path, **settings):
        no_space(path) if trainer.global_step == 100 else save(trainer, path, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save_checkpoint", save_half)
        with pytest.raises(ValueError, match=r"step 100 cannot be written .*No space left") as error:
            bench.train(bench.task("sae"), tmp_path)
    assert str(tmp_path) in str(error.value)
    assert {path.name for path in (tmp_path / CHECKPOINTS).iterdir()} == {LAST, HASHES}
    assert_goes_on(bench, tmp_path, 70, uninterrupted)


def test_a_disk_that_is_full_costs_no_more_than_the_steps_since(bench, uninterrupted, tmp_path):
    with small_disk(tmp_path / "disk", 450) as remount:
        folder = tmp_path / "disk" / "stage"
        with pytest.raises(ValueError, match=r"step 100 cannot be written .*No space left"):
            bench.train(bench.task("sae"), folder)
        remount("size=8m")
        assert_goes_on(bench, folder, 70, uninterrupted)


def test_a_checkpoint_needs_no_room_but_where_it_is_kept(bench, uninterrupted, tmp_path, monkeypatch):
    nowhere = str(tmp_path / "nowhere")
    monkeypatch.setattr(tempfile, "tempdir", nowhere)
    with pytest.raises(Interrupted):
        bench.train(bench.task("sae"), tmp_path, InterruptAt(119))
    assert tempfile.tempdir == nowhere
    cut_off = tmp_path / CHECKPOINTS / "tmp_half"
    cut_off.write_bytes(b"half of one")
    assert newest_checkpoint(tmp_path / CHECKPOINTS) == tmp_path / CHECKPOINTS / LAST
    assert not cut_off.exists()
    assert_goes_on(bench, tmp_path, 20, uninterrupted)


class Saves:
    """A trainer that only saves, and numbers what it saves."""

    is_global_zero = True

    def __init__(self, folder):
        self.callback, self.saved, self.global_step = Checkpoints(folder, 50), 0, 0

    def save_checkpoint(self, path, weights_only):
        self.saved += 1
        path.write_text(str(self.saved))

    def save(self, count):
        for _ in range(count):
            self.global_step += 50
            self.callback.on_train_batch_end(self, None, None, None, 0)


class CutBefore:
    """Cuts a process off before its n-th rename."""

    def __init__(self, number, rename):
        self.left, self.rename = number, rename

    def __call__(self, path, target):
        self.left -= 1
        if self.left == 0:
            raise Interrupted
        return self.rename(path, target)


@pytest.mark.parametrize("first", range(1, 5))
@pytest.mark.parametrize("second", range(1, 5))
def test_there_is_a_whole_checkpoint_at_every_moment(tmp_path, monkeypatch, first, second):
    """Cut off again and again, it never goes back behind what it had."""
    trainer, newest = Saves(tmp_path), 1
    trainer.save(1)
    for number in (first, second, second):
        cut = CutBefore(number, type(tmp_path).replace)
        with monkeypatch.context() as patch:
            patch.setattr(type(tmp_path), "replace", lambda path, target, cut=cut: cut(path, target))
            with pytest.raises(Interrupted):
                trainer.save(3)
        found = int(newest_checkpoint(tmp_path).read_text())
        assert newest <= found < trainer.saved
        newest = found
    trainer.save(1)
    assert int(newest_checkpoint(tmp_path).read_text()) == trainer.saved
