"""A sweep's jobs as processes of their own: what becomes of them, and that none is left behind."""

import json
import os
import signal
import sys
import time

import pytest
from omegaconf import OmegaConf

from full_disks import no_space
from sae_nfm import __main__ as entry
from sae_nfm.launch import job as launch
from sae_nfm.launch.jobs import Job
from sae_nfm.settings.schema import plain
from tiny_studies import Suite, wait_until

STUDY = """
import json, pathlib, sys, time
folder, settings = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
print("before", flush=True)
with (folder.parent / "ran.txt").open("a") as file:
    file.write(folder.name + "\\n")
{fault}
result = {{"settings": settings, "reduction": {{"value": settings["seed"] / 10}}}}
(folder / "result.json").write_text(json.dumps(result))
"""


@pytest.fixture
def suite(tmp_path, corpus_file):
    return Suite(tmp_path, corpus_file)


@pytest.fixture
def sweep(monkeypatch, tmp_path):
    """Runs a sweep whose studies are a few lines of Python, with faults by seed."""

    def run(*overrides, faults=()):
        faults, composed = dict(enumerate(faults)), []

        def run_job(cfg):
            composed.append(plain(cfg))
            return launch.run_job(cfg)

        def command(hydra, job):
            code = STUDY.format(fault=faults.get(composed[-1]["seed"], "pass"))
            return [sys.executable, "-c", code, str(job.folder), json.dumps(composed[-1])]

        monkeypatch.setattr(entry, "run_job", run_job)
        monkeypatch.setattr(launch, "_command", command)
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        monkeypatch.setattr(sys, "argv", ["sae_nfm", "-m", *overrides, f"hydra.sweep.dir={tmp_path}/sweep"])
        try:
            entry.main()
        except SystemExit as exit:
            return exit.code
        return 0

    return run


def ran(folder):
    """Jobs whose study was started, and forget them."""
    names = (folder / "sweep" / "ran.txt").read_text().split()
    (folder / "sweep" / "ran.txt").unlink()
    return names


FAULTS = {
    "pass": "",
    "raise ValueError('layer=9: no')": "ValueError: layer=9: no",
    "print('x.y.NonFinite: nan'); sys.exit('error: first\\nsecond')": "first",
    "sys.exit('[rank1]: OSError: full\\n[rank0]: RuntimeError: closed by peer')": "[rank1]: OSError: full",
    "import os; os.kill(os.getpid(), 9)": "killed by SIGKILL",
    "sys.exit(3)": "no result, exit status 3",
    "sys.exit(0)": "no result, exit status 0",
}
"""What is wrong with a study, and what is said to be."""


def test_a_job_that_fails_stops_no_other(sweep, tmp_path, suite, capsys):
    names = [f"seed-{seed}" for seed in range(len(FAULTS) + 1)]
    assert sweep(f"seed=range({len(names)})", faults=FAULTS) == 1
    assert ran(tmp_path) == names
    jobs = suite.jobs("sweep")
    assert [jobs[name]["reason"] for name in names] == [*FAULTS.values(), ""]
    assert [jobs[name]["state"] for name in names] == ["done", *["failed"] * 6, "done"]
    printed = capsys.readouterr().out
    assert all(f" {name} " in printed for name in names)
    assert "layer=9: no" in printed
    assert f"hydra.sweep.dir={tmp_path}/sweep" in printed


def test_a_job_that_only_plans_leaves_a_plan(sweep, suite):
    plans = "(folder / 'plan.json').write_text('{}'); sys.exit(0)"
    assert sweep("seed=0,1", "plan=true", faults=[plans, "sys.exit(0)"]) == 1
    jobs = suite.jobs("sweep")
    assert (jobs["seed-0"]["state"], jobs["seed-1"]["state"]) == ("done", "failed")


def test_a_sweep_that_is_run_again_does_what_is_missing(sweep, tmp_path, suite, capsys):
    assert sweep("seed=0,1,2", faults=["pass", "sys.exit(1)"]) == 1
    ran(tmp_path)
    result = tmp_path / "sweep" / "seed-2" / "result.json"
    result.write_text(result.read_text()[:-9])  # half a result is none
    capsys.readouterr()
    assert sweep("seed=0,1,2,3") == 0
    assert ran(tmp_path) == ["seed-1", "seed-2", "seed-3"]
    assert [job["state"] for job in suite.jobs("sweep").values()] == ["already there", "done", "done", "done"]
    assert "what is missing" not in capsys.readouterr().out


def test_a_report_that_is_missing_is_made_from_the_result(sweep, tmp_path, suite, monkeypatch):
    """As where the disk was full once the result was written: the study ends in an error."""
    assert sweep("seed=0,1") == 0  # these studies write a result, and no more
    reports = [tmp_path / "sweep" / f"seed-{seed}" / "report.html" for seed in (0, 1)]
    with monkeypatch.context() as patch:
        patch.setattr("sae_nfm.report.html.write_atomically", lambda path, text: no_space(path))
        assert sweep("seed=0,1") == 1
        for report in reports:
            report.unlink()
    assert "no report can be written: [Errno 28] No space left" in suite.jobs("sweep")["seed-1"]["reason"]
    assert sweep("seed=0,1") == 0
    assert {job["state"] for job in suite.jobs("sweep").values()} == {"already there"}
    assert all(report.read_text().rstrip().endswith("</html>") for report in reports)
    written = [report.stat().st_mtime_ns for report in reports]
    assert sweep("seed=0,1") == 0
    assert [report.stat().st_mtime_ns for report in reports] == written


def test_the_result_of_another_study_is_not_overwritten(sweep, tmp_path, suite):
    assert sweep("seed=0", "layer=1") == 0
    before = suite.result("sweep/job")
    assert sweep("seed=0", "layer=2") == 1
    assert suite.result("sweep/job") == before
    assert "another study" in suite.jobs("sweep")["job"]["reason"]
    assert sweep("seed=0", "layer=1", "trainer=gpu", "artifacts=elsewhere") == 0


def test_no_process_of_a_job_outlives_it(sweep, suite):
    left = f"import subprocess; subprocess.Popen(['sh', '-c', 'sleep 60; echo {suite.folder}'])"
    assert sweep("seed=0", faults=[left]) == 0
    assert not suite.processes()


def test_optimize_names_a_number_of_the_result():
    result = {"reduction": {"value": 0.25}, "conditions": {"sae": {"kl": {"mean": 2}}}, "nfm": None}
    assert launch.number(result, "reduction.value") == 0.25
    assert launch.number(result, "conditions.sae.kl.mean") == 2
    assert launch.number(result, "nfm.order") is None
    assert launch.number(result, "conditions.sae") is None


def test_the_command_is_that_of_one_study(tmp_path):
    hydra = OmegaConf.create(
        {
            "runtime": {"config_sources": [{"provider": "command-line", "path": "/my/conf"}]},
            "job": {"config_name": "study"},
            "overrides": {"task": ["seed=1"], "hydra": ["hydra/launcher=slurm", "hydra.verbose=true"]},
        }
    )
    command = launch._command(hydra, Job(tmp_path / "it's, a job"))
    assert command[1:5] == ["-m", "sae_nfm", "--config-name=study", "--config-dir=/my/conf"]
    assert command[5:] == [
        "seed=1", "hydra.verbose=true",
        "hydra.mode=RUN", f"hydra.run.dir='{tmp_path}/it\\'s, a job'", "hydra.output_subdir=null",
    ]  # fmt: skip


@pytest.mark.slow
def test_two_jobs_at_a_time_train_their_sae_once(suite):
    status, printed = suite.run("nfm.order=1,2", "hydra/launcher=local", "hydra.sweep.dir=sweep", sweep=True)
    assert status == 0, printed
    assert {job["state"] for job in suite.jobs("sweep").values()} == {"done"}
    assert len(suite.artifacts("sae")) == 1
    assert (len(suite.artifacts("linear")), len(suite.artifacts("nfm"))) == (1, 2)  # on one linear part
    logs = [(suite.folder / "sweep" / f"nfm.order-{order}" / "study.log").read_text() for order in (1, 2)]
    assert sum("explained_variance" in log for log in logs) == 1  # what training says
    assert not suite.processes()


@pytest.mark.slow
def test_of_four_jobs_the_one_that_was_killed_is_run_again(suite):
    sweep = ("nfm.order=1,2,3,4", "hydra.sweep.dir=sweep")
    started = suite.start(*sweep, sweep=True)
    of_third = "hydra.run.dir='" + str(suite.folder / "sweep" / "nfm.order-3")
    (third,) = wait_until(lambda: [pid for pid, args in suite.processes().items() if of_third in args], 300)
    time.sleep(1)
    os.kill(third, signal.SIGKILL)
    assert started.wait(300) == 1
    states = {name: (job["state"], job["reason"]) for name, job in suite.jobs("sweep").items()}
    assert states.pop("nfm.order-3") == ("failed", "killed by SIGKILL")
    assert set(states.values()) == {("done", "")}
    times = {name: (suite.folder / "sweep" / name / "result.json").stat().st_mtime for name in states}
    status, printed = suite.run(*sweep, sweep=True)
    assert status == 0, printed
    jobs = suite.jobs("sweep")
    assert jobs.pop("nfm.order-3")["state"] == "done"
    assert {job["state"] for job in jobs.values()} == {"already there"}
    assert times == {name: (suite.folder / "sweep" / name / "result.json").stat().st_mtime for name in states}
    assert len(suite.artifacts("sae")) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "number"),
    [
        ("basic", signal.SIGTERM),
        ("basic", signal.SIGINT),
        ("basic", signal.SIGKILL),
        ("local", signal.SIGTERM),
        ("local", signal.SIGINT),
    ],
)
def test_a_sweep_that_is_ended_leaves_no_process(suite, launcher, number):
    overrides = (f"hydra/launcher={launcher}", "nfm.order=1,2", "trainer=ddp_cpu", "hydra.sweep.dir=sweep")
    started = suite.start(*overrides, sweep=True)
    wait_until(lambda: any("train_ddp_process_1" in args for args in suite.processes().values()))
    started.send_signal(number)
    started.wait(30)
    wait_until(lambda: not suite.processes(), 15)
