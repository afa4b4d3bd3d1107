"""What W&B is sent, read back from the files of offline runs."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf

from fake_results import fake_result, renamed
from sae_nfm import config
from sae_nfm.__main__ import CONFIG_DIR
from sae_nfm.compare.studies import read_studies
from sae_nfm.report.figures import draw_figures
from sae_nfm.settings.schema import folder_name
from sae_nfm.tracking.wandb_names import summary
from small_training import BATCH, Bench, InterruptAt, Interrupted
from tiny_studies import Suite
from wandb_files import offline_runs


@pytest.fixture(scope="module")
def bench(lm, splits):
    return Bench(lm, splits)


def train(bench, tracked, artifact, *callbacks, steps=20):
    bench.train(bench.sae_task(steps), artifact, *callbacks, logger=tracked.stage)


def test_a_study_reads_back(tracker, result, bench, job, tmp_path, monkeypatch, capsys, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("WANDB_RUN_GROUP", "my_sweep")
    result["pathology"]["sae"]["cov"] = {"value": 1.1, "ci95": [1.0, 1.2]}
    draw_figures(result, job / "figures")
    (job / "report.html").write_text("<p>found</p>")
    tracked = tracker(job)
    train(bench, tracked, tmp_path / "0123.partial")
    tracked.result(result)

    runs = offline_runs(job)
    assert {job_type: len(found) for job_type, found in runs.items()} == {"sae": 1, "evaluation": 1}
    (sae,), (evaluation,) = runs["sae"], runs["evaluation"]
    for run in (sae, evaluation):
        assert (run.project, run.group, run.name) == ("tests", "my_sweep", f"nfm.order-2 {run.job_type}")
        assert run.tags == ["docs_lm", "layer 1 mlp_out", "interaction_only", "mine"]
        columns = {"sae": "topk", "sae.k": 4, "nfm.order": 2, "ablation": "interaction_only", "layer": 1}
        assert (columns | {"lm_batch": 4}).items() <= run.config.items()  # which the command gives
        assert not {"logger", "experiment", "pool_tokens", "optimizer@sae_optimizer"} & set(run.config)
        assert run.exit_code == 0
    check_curves(sae)
    check_evaluation(evaluation, result)
    assert sum("no API key" in record.message for record in caplog.records) == 1
    assert f"wandb sync {job}/wandb" in capsys.readouterr().out


def check_curves(sae):
    losses = {row["trainer/global_step"]: row["train/loss"] for row in sae.history if "train/loss" in row}
    assert list(losses) == list(range(20))
    assert losses[19] < losses[0]
    for row in sae.history:
        assert row["tokens"] == row["trainer/global_step"] * BATCH
    lr, norm = ([row[name] for row in sae.history if name in row] for name in ("train/lr", "train/grad_norm"))
    assert len(lr) == len(norm) == 20
    assert lr[1] == pytest.approx(0.01)
    assert lr[19] < lr[1]
    assert min(norm) > 0
    validations = [row for row in sae.history if "validation/explained_variance" in row]
    assert [row["trainer/global_step"] for row in validations] == [0, 9, 19, 20]
    assert sae.artifacts == []


def check_evaluation(evaluation, result):
    sae = result["conditions"]["sae"]
    expected = {
        "kl/sae": sae["kl"]["mean"],
        "kl/eps.sae_nfm": result["conditions"]["eps(sae_nfm)"]["kl"]["mean"],
        "ce_increase/sae": sae["ce_increase"],
        "reduction": result["reduction"]["value"],
        "reduction/ci_high": result["reduction"]["ci95"][1],
        "mse_reduction": result["mse_reduction"]["value"],
        "marginal_interaction": 0.0014,
        "marginal_interaction/absolute": 0.0022,
        "pathology/sae": result["pathology"]["sae"]["eps"]["value"],
        "pathology_change": -0.05,
        "pathology/sae_nfm": result["pathology"]["sae_nfm"]["eps"]["value"],
        "sae/explained_variance": 0.81,
        "sae/l0": 32.0,
        "sae/dead_fraction": 0.02,
        "nfm/interaction_share": 0.05,
        "share_of_codes_bound": 0.48,
        "num_warnings": 0,
    }
    assert {name: evaluation.summary[name] for name in expected} == pytest.approx(expected)
    columns, rows = evaluation.table("conditions")
    assert [row[0] for row in rows][:4] == ["clean", "sae", "eps(sae)", "cov(sae)"]
    row = dict(zip(columns, rows[2], strict=True))
    assert (row["role"], row["reconstruction"], row["baseline"]) == ("baseline", "sae", "eps")
    assert row["kl"] == result["conditions"]["eps(sae)"]["kl"]["mean"]
    check_media(evaluation)


def check_media(evaluation):
    images = {name.split(".")[0] for name in evaluation.summary if name.startswith("figures/")}
    assert images == {"figures/kl_by_condition"}
    page = evaluation.folder / "files" / evaluation.summary["report.path"]
    assert "<p>found</p>" in page.read_text()
    assert "result" in {kind for kind, _ in evaluation.artifacts}
    (point,) = [row for row in evaluation.history if "reduction" in row]
    assert point["kl/sae"] == evaluation.summary["kl/sae"]  # of history, so that there is a chart


def test_an_interrupted_stage_goes_on_in_its_run(tracker, bench, tmp_path):
    artifact, folders = tmp_path / "0123.partial", [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    with pytest.raises(Interrupted):
        train(bench, tracker(folders[0]), artifact, InterruptAt(60), steps=80)
    train(bench, tracker(folders[1]), artifact, steps=80)

    (first,), (second,) = (offline_runs(folder)["sae"] for folder in folders)
    assert first.id == second.id == (artifact / "wandb_run_id").read_text()
    assert (first.exit_code, second.exit_code) == (1, 0)
    assert max(row["trainer/global_step"] for row in first.history) >= 58
    assert min(row["trainer/global_step"] for row in second.history) == 50


def test_evaluating_again_goes_on_in_the_same_run(tracker, result, job, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for folder in (job, job, elsewhere):
        tracker(folder).result(result)
    first, second = offline_runs(job)["evaluation"]
    (other,) = offline_runs(elsewhere)["evaluation"]
    assert first.id == second.id != other.id
    assert (other.group, other.name) == ("elsewhere", "elsewhere evaluation")


def test_weights_are_artifacts_where_asked(tracker, bench, job, tmp_path):
    train(bench, tracker(job, weights=True), tmp_path / "0123.partial")
    assert offline_runs(job)["sae"][0].artifacts == [("sae", "sae-0123")]


def test_other_processes_than_the_first_are_silent(tracker, job, tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    with tracker(job).stage("sae", tmp_path, 64) as curves:
        curves.log_metrics({"train/loss": 1.0}, 0)
    assert not (job / "wandb").exists()


def test_the_run_of_a_sweeps_agent_is_the_evaluations(tracker, result, job, tmp_path, monkeypatch):
    parameters = tmp_path / "parameters.yaml"
    parameters.write_text("wandb_version: 1\nnfm.order: {value: 2}\n")
    monkeypatch.setenv("WANDB_SWEEP_ID", "swept")
    monkeypatch.setenv("WANDB_RUN_ID", "agents")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(parameters))
    tracked = tracker(job)
    with tracked.stage("sae", tmp_path, 64):
        pass
    tracked.result(result)

    (sae,), (evaluation,) = (offline_runs(job)[name] for name in ("sae", "evaluation"))
    assert (evaluation.id, evaluation.run.sweep_id, evaluation.group) == ("agents", "swept", "swept")
    assert (sae.run.sweep_id, sae.group) == ("", "swept")
    assert sae.id != "agents"


def test_what_was_not_measured_is_left_out():
    result = fake_result(reconstructions=("sae",))
    result["sae"]["dead_fraction"] = None
    found = summary(result)
    assert {"kl/sae", "pathology/sae", "sae/l0"} <= set(found)
    assert not any(name.startswith(("nfm", "reduction", "marginal", "sae/dead")) for name in found)
    assert summary({"conditions": {"sae": {"kl": {"mean": 1.0}}}}) == {"kl/sae": 1.0}


def test_headlines_keep_their_names_whatever_the_conditions_are_called():
    result = fake_result()
    found, again = summary(result), summary(renamed(result, {"sae": "plain", "sae_nfm": "both"}))
    of_conditions = ("kl/", "ce_increase/", "top1_agreement/", "l2/", "mse/", "cosine/", "pathology/")
    headlines = {name: value for name, value in found.items() if not name.startswith(of_conditions)}
    assert headlines.items() <= again.items()
    assert {"reduction", "pathology_change", "marginal_interaction"} <= set(headlines)
    assert again["kl/both"] == found["kl/sae_nfm"]
    assert again["kl/eps.both"] == found["kl/eps.sae_nfm"]
    assert again["pathology/plain"] == found["pathology/sae"]


def test_comparing_overlooks_wandbs_own_files(tmp_path):
    own = tmp_path / "job" / "wandb" / "run-1" / "files"
    own.mkdir(parents=True)
    (own / "config.yaml").touch()
    (tmp_path / "job" / "result.json").write_text(json.dumps(fake_result()))
    studies, problems = read_studies([tmp_path])
    assert (len(studies), problems) == (1, [])


def test_the_agents_command_composes():
    sweep = OmegaConf.to_container(OmegaConf.load(Path(CONFIG_DIR) / "wandb_sweep.yaml"), resolve=False)
    parts = sweep["command"]
    assert parts[:4] == ["${env}", "${interpreter}", "-m", "sae_nfm"]
    assert parts[-1] == "${args_no_hyphens}"
    chosen = [f"{name}={values['values'][-1]}" for name, values in sweep["parameters"].items()]
    OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
    config.register()
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        cfg = compose("study", [*parts[4:-1], *chosen], return_hydra_config=True)
    varied = "ablation-interaction_only,l0-32,nfm.order-4"
    assert cfg.hydra.run.dir == f"runs/wandb_sweep/{varied}"
    assert cfg.logger._target_ == "sae_nfm.tracking.wandb_runs.WandbRuns"
    assert summary(fake_result())[sweep["metric"]["name"]] == fake_result()["reduction"]["value"]


@pytest.mark.slow
def test_an_offline_sweep_reads_back(tmp_path, corpus_file):
    suite = Suite(tmp_path, corpus_file)
    command = ("nfm.order=2,3", "logger=wandb", "hydra.sweep.dir=multirun/orders")
    status, printed = suite.run(*command, sweep=True)
    assert status == 0, printed
    assert "wandb sync multirun/orders/*/wandb" in printed
    runs = {job: offline_runs(tmp_path / "multirun/orders" / job) for job in ("nfm.order-2", "nfm.order-3")}
    # The second job finds the SAE that the first has trained; the linear part is solved, without a curve.
    stages = ["sae", "nfm", "evaluation"]
    assert [list(found) for found in runs.values()] == [stages, stages[1:]]
    for order, (job, found) in zip((2, 3), runs.items(), strict=True):
        result = suite.result(f"multirun/orders/{job}")
        for run in (run for of_type in found.values() for run in of_type):
            assert (run.group, run.name) == ("orders", f"{job} {run.job_type}")
            assert run.tags == ["docs_lm", "layer 1 resid_post"]
            assert len(run.config) <= 60
            assert (run.config["nfm"], run.config["nfm.order"], run.config["ablation"]) == (
                "full",
                order,
                "none",
            )
        (evaluation,) = found["evaluation"]
        kl = result["conditions"]["sae_nfm"]["kl"]
        assert len(shown_keys(evaluation)) <= 40
        assert evaluation.summary["kl/sae_nfm"] == pytest.approx(kl["mean"])
        assert evaluation.summary["reduction"] == pytest.approx(result["reduction"]["value"])
        shown = [name for name in result["conditions"] if name != "identity"]
        assert len(evaluation.table("conditions")[1]) == len(shown)
    check_syncable(tmp_path / "multirun/orders", count=5)

    status, printed = suite.run(*command, sweep=True)
    assert status == 0, printed
    assert len(list((tmp_path / "multirun").glob("orders/*/wandb/offline-run-*"))) == 5


def shown_keys(run):
    """Keys of a run's summary; what is not a number is several entries of one."""
    media = {key.removesuffix("._type") for key in run.summary if key.endswith("._type")}
    parts = {key for key in run.summary if any(key.startswith(f"{name}.") for name in media)}
    return media | (set(run.summary) - parts)


def check_syncable(sweep, count):
    """The printed command finds the runs."""
    folders = [str(path) for path in sweep.glob("*/wandb")]
    command = [sys.executable, "-m", "wandb", "sync", "--dry-run", *folders]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"Would sync {count} run(s)" in shown.stderr + shown.stdout
