"""Jobs that share a process give what they give alone, and fail alone."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from sae_nfm.launch import together
from sae_nfm.launch.job import child_process
from sae_nfm.launch.jobs import DONE, FAILED, REUSED, UNFINISHED, Job, Outcome
from sae_nfm.launch.prepared import Prepared, groups, in_words, taken
from sae_nfm.planning.costs import Memory
from tiny_studies import Suite, wait_until

TOGETHER = ("hydra/launcher=together", "hydra.sweep.dir=sweep")


def files(suite, name="weights.safetensors"):
    """What artifacts hold, by kind and fingerprint."""
    root = suite.folder / "artifacts"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob(name)}


def kls(result):
    return {name: found["kl"]["mean"] for name, found in result["conditions"].items()}


def results(suite, sweep):
    return {
        path.parent.name: json.loads(path.read_text())
        for path in sorted((suite.folder / sweep).glob("*/result.json"))
    }


@pytest.fixture(scope="module")
def swept(tmp_path_factory, corpus_file):
    suite = Suite(tmp_path_factory.mktemp("together"), corpus_file)
    lr = "sae_optimizer.lr=1e-3,1e30"
    status, printed = suite.run("sae.d_sae=32,64", lr, "nfm.dropout=0.2", *TOGETHER, sweep=True)
    return suite, status, printed


def test_artifacts_and_figures_are_those_of_single_jobs(swept, tmp_path, corpus_file):
    suite, _, _ = swept
    alone = Suite(tmp_path, corpus_file)
    found = {}
    for size in (32, 64):
        status, printed = alone.run(
            f"sae.d_sae={size}", "sae_optimizer.lr=1e-3", "nfm.dropout=0.2", f"hydra.run.dir=alone_{size}"
        )
        assert status == 0, printed
        found[size] = alone.result(f"alone_{size}")
    made, expected = files(suite), files(alone)
    assert len(expected) == 6  # of each an SAE, its linear part and its NFM
    assert {name: made[name] for name in expected} == expected
    for result in results(suite, "sweep").values():
        single = found[result["sae"]["d_sae"]]
        assert kls(result) == pytest.approx(kls(single), rel=1e-6, abs=1e-9)
        assert result["settings"] == single["settings"]
        assert result["fingerprint"] == single["fingerprint"]


@pytest.mark.slow
def test_studies_that_train_through_the_model_in_half_precision_keep_to_themselves(tmp_path, corpus_file):
    """One trains while the other's model runs without gradients, each under its own autocast."""
    suites = [Suite(tmp_path / name, corpus_file) for name in ("together", "alone")]
    for suite in suites:
        suite.folder.mkdir()
        suite.settings += ["trainer.precision=bf16-mixed", "evaluation.top_n=3", "tuning_tokens=2048"]
        suite.settings += ["train_tokens=4096", "eval_tokens=300"]
    together, alone = suites
    status, printed = together.run("nfm_objective=reconstruction,kl", *TOGETHER, sweep=True)
    assert status == 0, printed
    for objective in ("reconstruction", "kl"):
        status, printed = alone.run(f"nfm_objective={objective}", f"hydra.run.dir={objective}")
        assert status == 0, printed
    made, expected = files(together), files(alone)
    assert made == expected
    for found in results(together, "sweep").values():
        single = alone.result(found["settings"]["nfm_objective"])
        assert kls(found) == pytest.approx(kls(single), rel=1e-6, abs=1e-9)


def test_one_that_diverges_ends_no_other_and_says_why(swept):
    suite, status, printed = swept
    outcomes = {folder.name: Job(folder).outcome() for folder in (suite.folder / "sweep").glob("*/")}
    assert status == 1
    assert {name: outcome.state for name, outcome in outcomes.items()} == {
        "sae.d_sae-32,sae_optimizer.lr-0.001": DONE,
        "sae.d_sae-64,sae_optimizer.lr-0.001": DONE,
        "sae.d_sae-32,sae_optimizer.lr-1e+30": FAILED,
        "sae.d_sae-64,sae_optimizer.lr-1e+30": FAILED,
    }
    for name, outcome in outcomes.items():
        said = (suite.folder / "sweep" / name / "output.log").read_text()
        assert ("report: " in said) == outcome.succeeded
        assert (f"error: {outcome.reason}" in said) == (not outcome.succeeded)
        assert ("1/4 sae: " in said) == outcome.succeeded
    assert "4 jobs in one process" in printed


def test_a_process_that_is_killed_goes_on_where_it_was(tmp_path, corpus_file):
    suite = Suite(tmp_path, corpus_file)
    length = ("train_tokens=122880", "nfm_train_tokens=8192", "checkpoint_every=10")
    overrides = ("sae.d_sae=32,64", *length, *TOGETHER)
    sweep = suite.start(*overrides, sweep=True)
    sae = suite.folder / "artifacts" / "sae"
    try:
        wait_until(lambda: len(list(sae.glob("*.partial/checkpoints/last.ckpt"))) == 2)
        (group,) = [pid for pid, args in suite.processes().items() if "sae_nfm.launch" in args]
        os.kill(group, signal.SIGKILL)
        assert sweep.wait(60) == 1
    finally:
        sweep.kill()
    reasons = {Job(folder).outcome().reason for folder in (suite.folder / "sweep").glob("*/")}
    assert reasons == {"killed by SIGKILL"}
    assert not list((suite.folder / "sweep").glob("*/result.json"))
    status, printed = suite.run(*overrides, sweep=True)
    assert status == 0, printed
    for folder in (suite.folder / "sweep").glob("*/"):
        assert "going on from" in (folder / "output.log").read_text()


def test_what_an_earlier_process_printed_is_not_the_reason_of_this_one(tmp_path, monkeypatch):
    def dies(command, *streams):
        return child_process([sys.executable, "-c", "raise SystemExit(3)"], *streams)

    monkeypatch.setenv("WANDB_RUN_GROUP", "sweep")
    monkeypatch.setattr(together, "child_process", dies)
    job, config = Job(tmp_path / "seed-0"), OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    job.folder.mkdir()
    job.record(Outcome(UNFINISHED))
    (tmp_path / "together_0.log").write_text("OSError: full\n")
    together.Processes(config, None, None)._run([SimpleNamespace(job=job, given=lambda: None)])
    assert job.outcome().reason == "no result, exit status 3"


def test_jobs_go_in_groups_that_have_room(tmp_path, corpus_file):
    suite = Suite(tmp_path, corpus_file)
    room = "hydra.launcher.gigabytes=0.000001"
    status, printed = suite.run("sae.d_sae=32,64", room, *TOGETHER, sweep=True)
    assert status == 0, printed
    said = (suite.folder / "sweep" / "together_0.log").read_text()
    assert re.findall(r"group (\d) of 2: 1 jobs, (\d\.\d\d) GB beside the model \(of 0\.00\)", said)
    assert [result["sae"]["d_sae"] for result in results(suite, "sweep").values()] == [32, 64]
    status, printed = suite.run("sae.d_sae=32,64", room, *TOGETHER, sweep=True)
    assert status == 0, printed
    assert {Job(folder).outcome().state for folder in (suite.folder / "sweep").glob("*/")} == {REUSED}
    assert not [args for args in suite.processes().values() if "sae_nfm.launch" in args]


def test_what_does_not_compose_is_named_before_anything_runs(tmp_path, corpus_file):
    suite = Suite(tmp_path, corpus_file)
    status, printed = suite.run("sae.d_sea=32,64", *TOGETHER, sweep=True)
    assert status == 1
    assert "sae.d_sea=32,64: " in printed
    assert "did you mean d_sae" in printed
    assert not [args for args in suite.processes().values() if "sae_nfm.launch" in args]


def test_what_only_waits_for_jobs_needs_no_torch():
    modules = "sae_nfm.__main__, sae_nfm.launch.together"
    program = f"import sys, {modules}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"


def job(name, seed, *memory):
    study = SimpleNamespace(cfg=SimpleNamespace(seed=seed))
    return Prepared(Job(Path(name)), Path("study.log"), study, Memory(*memory))


def test_a_group_reads_once_computes_one_at_a_time_and_keeps_all():
    jobs = [job("a", 0, 100, 10, 1), job("b", 0, 90, 20, 2), job("c", 1, 100, 5, 3)]
    assert taken(jobs[:1]) == 111
    assert taken(jobs[:2]) == 100 + 20 + 3
    assert taken(jobs) == 2 * 100 + 20 + 6
    assert groups(jobs, 226) == [jobs]
    assert groups(jobs, 225) == [jobs[:2], jobs[2:]]
    assert groups(jobs, 0) == [jobs[:1], jobs[1:2], jobs[2:]]
    assert in_words(groups(jobs, 225), 225) == [
        "group 1 of 2: 2 jobs, 0.00 GB beside the model (of 0.00): a, b",
        "group 2 of 2: 1 jobs, 0.00 GB beside the model (of 0.00): c",
    ]


def test_a_plan_of_every_job_is_no_failure(tmp_path, corpus_file):
    suite = Suite(tmp_path, corpus_file)
    status, printed = suite.run("sae.d_sae=32,64", "plan=true", *TOGETHER, sweep=True)
    assert status == 0, printed
    plans = [*(suite.folder / "sweep").glob("*/plan.json")]
    assert len(plans) == 2
    assert not results(suite, "sweep")


REFUSED = """
from pathlib import Path
from sae_nfm.launch.group import _attempt
from sae_nfm.settings.values import NotAllowed

def refuse():
    raise NotAllowed("sae.k", 0, "more")

print([_attempt(refuse, Path("study.log")), _attempt(lambda: 1, Path("study.log"))])
"""
"""What a process does with a job that is refused, and with the next."""


def test_one_that_is_refused_ends_no_other_though_the_terminal_is_to_see_tracebacks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.delenv("SAE_NFM_BRIEF_ERRORS", raising=False)
    with Path("printed.log").open("wb") as printed:
        assert child_process([sys.executable, "-c", REFUSED], printed).wait(300) == 0
    refused = "sae.k=0: allowed are more"
    said = Path("printed.log").read_text().splitlines()
    assert said == [f"error: {refused}", f"[(None, '{refused}'), (1, '')]"]


def test_several_devices_are_refused_by_name(tmp_path, corpus_file):
    suite = Suite(tmp_path, corpus_file)
    status, _ = suite.run("seed=0,1", "trainer=ddp_cpu", *TOGETHER, sweep=True)
    assert status == 1
    outcome = Job(next((suite.folder / "sweep").glob("*/"))).outcome()
    assert outcome.reason.startswith("trainer.devices=2")
