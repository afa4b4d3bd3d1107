"""A study that is told to end says so, with the signal's exit status, and can be started again."""

import signal

import pytest

from tiny_studies import Suite, wait_until


def with_checkpoint(suite, stage):
    """Whether a stage has come as far as its first checkpoint."""
    return any((suite.folder / "artifacts" / stage).glob("*.partial/checkpoints/last.ckpt"))


@pytest.fixture
def interruptible():
    """Studies heed SIGINT, also where a shell runs these tests in the background and has them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_a_signal_in_training_ends_it_with_its_status_and_a_word(
    tmp_path, corpus_file, interruptible, number, status
):
    suite = Suite(tmp_path, corpus_file)
    study = suite.start("train_tokens=4096000", "checkpoint_every=50", "hydra.run.dir=study")
    try:
        wait_until(lambda: with_checkpoint(suite, "sae"))
        study.send_signal(number)
        assert study.wait(60) == status
    finally:
        study.kill()
    printed = (tmp_path / "printed.log").read_text()
    assert f"{number.name}: interrupted; the same command goes on from here" in printed
    assert "Traceback" not in printed
    assert with_checkpoint(suite, "sae")
    assert not (tmp_path / "study" / "result.json").exists()
