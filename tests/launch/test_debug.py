"""Runs for looking at the program itself: they keep nothing, and say where the time goes."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import DeviceStatsMonitor

from sae_nfm import config
from sae_nfm.__main__ import CONFIG_DIR
from tiny_studies import Suite

DEBUG = [path.stem for path in (Path(CONFIG_DIR) / "debug").glob("*.yaml")]


@pytest.fixture(scope="module", autouse=True)
def hydra():
    config.register()
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        yield


def checked(*overrides):
    return config.check(compose("study", overrides=list(overrides)))


@pytest.mark.parametrize("debug", DEBUG)
def test_debugging_is_small_and_keeps_no_artifacts(debug):
    cfg = checked(f"debug={debug}")
    assert cfg.artifacts is None
    assert cfg.eval_tokens <= 4096
    assert cfg.train_tokens <= 400_000
    assert cfg.validation_tokens <= 4096


def test_a_fast_run_takes_one_step():
    cfg = checked("debug=fdr")
    steps = [step.learning.schedule().num_steps for step in config.course(cfg) if step.learning is not None]
    assert steps == [1, 1]


def test_overfitting_sees_the_same_tokens_many_times():
    cfg = checked("debug=overfit")
    assert cfg.train_tokens > 50 * cfg.activations.tokens


def test_callbacks_are_made_anew_for_every_stage():
    cfg = checked("callbacks=device_stats")
    (first,), (second,) = config.callbacks(cfg), config.callbacks(cfg)
    assert isinstance(first, DeviceStatsMonitor)
    assert first is not second
    assert config.callbacks(checked()) == []


def test_a_profile_is_written_and_nothing_else_is_left(tmp_path, corpus_file):
    suite = Suite(tmp_path, corpus_file)
    more = ("callbacks=device_stats", "logger=csv", "hydra.run.dir=run")
    status, printed = suite.run("debug=profile", *more)
    assert status == 0, printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["printed.log", "run"]
    assert {"sae", "nfm", "tokens"} <= {path.name for path in (tmp_path / "run" / "artifacts").iterdir()}
    for loop, action in (("fit", "training_step"), ("test", "test_step")):
        (profile,) = (tmp_path / "run").glob(f"{loop}-profile*.txt")
        assert action in profile.read_text()
    columns = (tmp_path / "run" / "logs" / "sae" / "metrics.csv").read_text().partition("\n")[0]
    assert "DeviceStatsMonitor" in columns
    assert {"train/lr", "train/grad_norm"} <= set(columns.split(","))
