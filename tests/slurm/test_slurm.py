"""Sweeps on a SLURM of this machine's own: several tasks of a study, several studies, and what fails."""

import shutil
import tempfile
from pathlib import Path

import pytest

from slurm.cluster import Cluster, why_not
from tiny_studies import Suite, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not() or "")]
LAUNCHER = ("hydra/launcher=slurm", "hydra.launcher.timeout_min=10", "hydra.sweep.dir=sweep")


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    folder = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))
    cluster = Cluster(folder)
    yield cluster
    cluster.stop()
    shutil.rmtree(folder)


@pytest.fixture
def suite(cluster, tmp_path, corpus_file, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", str(cluster.configuration))
    suite = Suite(tmp_path, corpus_file)
    yield suite
    wait_until(lambda: not cluster.ask("squeue", "-h"), 20)
    assert not suite.processes()


def test_a_study_of_two_tasks(suite):
    status, printed = suite.run("trainer=ddp_cpu", *LAUNCHER, sweep=True)
    assert status == 0, printed
    logs = [(suite.folder / "sweep" / "job" / name).read_text() for name in ("study.log", "rank_1.log")]
    fingerprint = suite.result("sweep/job")["fingerprint"]
    for process, log in enumerate(logs, start=1):
        assert f"process {process} of 2, settings {fingerprint}" in log


def test_an_array_of_four_jobs(suite):
    status, printed = suite.run("nfm.order=1,2,3,4", *LAUNCHER, sweep=True)
    assert status == 0, printed
    assert [suite.result(f"sweep/nfm.order-{order}")["nfm"]["order"] for order in (1, 2, 3, 4)] == [
        1,
        2,
        3,
        4,
    ]
    assert len(suite.artifacts("sae")) == 1


def test_a_task_that_raises_ends_the_other(suite):
    overrides = ("trainer=ddp_cpu", "objectives.reconstruction._target_=faults.RaisesOnRank1")
    status, _ = suite.run(*overrides, *LAUNCHER, sweep=True, timeout=120)
    assert status == 1
    job = suite.jobs("sweep")["job"]
    assert job["state"] == "failed"
    assert "rank 1 has no disk" in job["reason"]


def test_a_job_that_is_cancelled_stops_no_other(suite, cluster):
    sweep = suite.start("seed=1,2", *LAUNCHER, sweep=True)
    first = wait_until(lambda: cluster.ask("squeue", "-h", "-t", "R", "-o", "%i").split())[0]
    wait_until(lambda: suite.jobs("sweep").get("seed-1"))
    cluster.ask("scancel", first)
    assert sweep.wait(300) == 1
    states = [(job["state"], job["reason"]) for job in suite.jobs("sweep").values()]
    assert states == [("failed", "killed by SIGTERM"), ("done", "")]
