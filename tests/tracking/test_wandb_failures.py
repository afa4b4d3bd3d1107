"""What becomes of a study when W&B, or the way to it, fails: it has its result, and ends."""

import json
import logging
import time

import pytest
import wandb
from hydra import compose, initialize_config_dir

from sae_nfm import config
from sae_nfm.__main__ import CONFIG_DIR
from sae_nfm.launch.study import Study
from sae_nfm.store.processes import ENDS_WITH
from tiny_studies import SETTINGS, Suite
from wandb_files import offline_runs
from wandb_server import Server


class Broken:
    """Stands for `wandb.init` where there is no server."""

    def __init__(self, offline_too):
        self.asked, self.offline_too, self.works = [], offline_too, wandb.init

    def __call__(self, **settings):
        self.asked.append(settings["mode"])
        if self.offline_too or settings["mode"] is None:
            raise wandb.errors.CommError("no route to host")
        return self.works(**settings)


def test_without_the_server_runs_are_kept_offline(tracker, result, job, tmp_path, monkeypatch, caplog):
    broken = Broken(offline_too=False)
    monkeypatch.setattr(wandb, "init", broken)
    monkeypatch.setattr(wandb, "login", lambda **settings: True)
    tracked = tracker(job)
    with tracked.stage("sae", tmp_path, 64) as curves:
        curves.log_metrics({"train/loss": 1.0}, 0)
    tracked.result(result)
    assert broken.asked == [None, "offline", "offline"]
    assert "no route to host" in caplog.text
    assert list(offline_runs(job)) == ["sae", "evaluation"]


@pytest.mark.parametrize("method", ["log", "define_metric", "finish"])
def test_a_run_that_breaks_harms_nothing(tracker, result, job, tmp_path, monkeypatch, caplog, method):
    def break_(*args, **settings):
        raise ConnectionResetError("broken pipe")

    with monkeypatch.context() as patched:
        patched.setattr(wandb.Run, method, break_)
        tracked = tracker(job, offline=True)
        with tracked.stage("sae", tmp_path, 64) as curves:
            curves.log_metrics({"train/loss": 1.0}, 0)
            curves.log_metrics({"train/loss": 1.0}, 1)
    told = [record for record in caplog.records if "broken pipe" in record.message]
    assert [record.levelno for record in told] == [logging.WARNING]
    tracked.result(result)
    assert offline_runs(job)["evaluation"][0].exit_code == 0


def test_a_study_does_without_wandb(tmp_path, corpus_file, monkeypatch, caplog):
    monkeypatch.setattr(wandb, "init", Broken(offline_too=True))
    monkeypatch.setenv(ENDS_WITH, "")  # which the study sets, and which is not for the tests after this one
    config.register()
    overrides = [*SETTINGS, f"corpus.path={corpus_file}", f"artifacts={tmp_path / 'artifacts'}"]
    overrides += ["logger=wandb_offline", "evaluation.reconstructions=[sae]", "evaluation.matched=[sae]"]
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        cfg = compose("study", overrides)
    Study(cfg, tmp_path, {"command": "", "choices": {}}).run()
    assert "sae" in json.loads((tmp_path / "result.json").read_text())["conditions"]
    assert "not even offline" in caplog.text


@pytest.fixture
def server(monkeypatch):
    """A server to which the user has a key."""
    server = Server()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "3")
    yield server
    server.stop()


def test_with_a_key_runs_go_to_the_server(tracker, job, tmp_path, server, capsys):
    tracked = tracker(job)
    with tracked.stage("sae", tmp_path, 64) as curves:
        curves.log_metrics({"train/loss": 1.0}, 0)
    run = server.runs[0]
    assert (run["project"], run["jobType"], run["displayName"]) == ("tests", "sae", "nfm.order-2 sae")
    assert run["groupName"] == "nfm.order-2"
    assert run["tags"] == ["docs_lm", "layer 1 mlp_out", "interaction_only", "mine"]
    assert json.loads(run["config"])["sae.k"]["value"] == 4
    assert "wandb sync" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_server_that_goes_away_costs_patience_only(tracker, result, job, tmp_path, server, caplog):
    tracked, started = tracker(job, patience=5), time.monotonic()
    with tracked.stage("sae", tmp_path, 64) as curves:
        curves.log_metrics({"train/loss": 1.0}, 0)
        server.stop()
        curves.log_metrics({"train/loss": 1.0}, 1)
    tracked.result(result)
    assert time.monotonic() - started < 80
    assert "Timed out finishing run" in caplog.text
    assert list(offline_runs(job)) == ["evaluation"]


@pytest.mark.slow
def test_a_server_that_is_not_there_costs_no_result(tmp_path, corpus_file, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "3")
    started = time.monotonic()
    status, printed = Suite(tmp_path, corpus_file).run("logger=wandb", "hydra.run.dir=run")
    assert status == 0, printed
    assert (tmp_path / "run/result.json").exists()
    assert "going on offline" in printed
    assert list(offline_runs(tmp_path / "run")) == ["sae", "nfm", "evaluation"]
    assert time.monotonic() - started < 300


def test_the_service_ends_with_the_last_of_the_runs_that_share_a_process(tracker, job, tmp_path, monkeypatch):
    ended = []
    monkeypatch.setattr(wandb, "teardown", lambda: ended.append(True))
    with tracker(job, offline=True).stage("sae", tmp_path, 64):
        with tracker(job, offline=True).stage("nfm", tmp_path / "other", 64):
            assert ended == []
        assert ended == []
    assert ended == [True]
