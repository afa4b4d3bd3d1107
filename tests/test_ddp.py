"""Two processes that share a study find what one finds, and end together."""

import re
import time
from itertools import chain

import pytest

from sae_nfm.data.activations import _Slices
from tiny_studies import Suite, wait_until

UNEQUAL = {"timing", "environment", "command", "choices", "settings", "fingerprint", "evaluation"}
"""What a result says about how it came about."""
CACHED = ("activations=cached", "evaluation.reconstructions=[sae,sae_linear,sae_nfm,refit]")
"""What the first process alone makes is in there too: the cache, and a control."""


@pytest.fixture(scope="module")
def suite(tmp_path_factory, corpus_file):
    return Suite(tmp_path_factory.mktemp("studies"), corpus_file)


@pytest.fixture(scope="module")
def sweep(suite):
    """A sweep of two jobs of two processes each; the second finds the dictionaries of the first."""
    overrides = ("trainer=ddp_cpu", *CACHED, "evaluation.draws=1,2", "hydra.sweep.dir=sweep")
    status, printed = suite.run(*overrides, sweep=True)
    assert status == 0, printed
    return suite.folder / "sweep"


def numbers(value, name=""):
    """Every number of a result by where it stands."""
    if isinstance(value, dict):
        items = ((key, item) for key, item in value.items() if key not in UNEQUAL)
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return {name: value} if isinstance(value, int | float) else {}
    return {key: number for k, item in items for key, number in numbers(item, f"{name}/{k}").items()}


def test_two_processes_measure_what_one_measures(suite, sweep):
    status, printed = suite.run("evaluation.draws=2", *CACHED, "hydra.run.dir=alone")
    assert status == 0, printed
    assert len(suite.artifacts("sae")) == 1
    assert len(suite.artifacts("linear")) == len(suite.artifacts("nfm")) == 1
    alone, together = (numbers(suite.result(study)) for study in ("alone", "sweep/evaluation.draws-2"))
    assert len(alone) > 500
    assert alone["/validation/sae/processes"] == 2  # that trained what this one measures
    assert together == pytest.approx(alone, rel=1e-6, abs=1e-9)


def test_the_processes_of_a_job_have_the_same_settings(suite, sweep):
    fingerprints = set()
    for draws in (1, 2):
        job = sweep / f"evaluation.draws-{draws}"
        logs = [(job / name).read_text() for name in ("study.log", "train_ddp_process_1.log")]
        said = [re.search(r"process (\d) of 2, settings (\w+)", log).groups() for log in logs]
        fingerprint = suite.result(f"sweep/{job.name}")["fingerprint"]
        assert said == [("1", fingerprint), ("2", fingerprint)]
        fingerprints.add(fingerprint)
    assert len(fingerprints) == 2


def test_what_is_left_to_be_made_is_made_from_activations_that_no_process_has_opened(suite, sweep):
    """Found: the SAE, whose training would have had all processes open them."""
    before = set(suite.artifacts("linear"))
    status, printed = suite.run(
        "trainer=ddp_cpu", *CACHED, "linear_tokens=3000", "hydra.run.dir=further", timeout=90
    )
    assert status == 0, printed
    assert len(suite.artifacts("sae")) == 1
    assert len(set(suite.artifacts("linear")) - before) == 1


def test_only_the_first_process_prints(sweep):
    for job in sweep.glob("evaluation*"):
        printed = (job / "output.log").read_text()
        assert printed.count("report: ") == printed.count("1/4 sae") == 1
        assert "rror" not in printed


def test_no_process_is_left(suite, sweep):
    assert not suite.processes()


@pytest.mark.parametrize("num_tokens", [7, 96, 100, 101])
def test_held_out_tokens_are_dealt_in_as_many_slices_to_each_process(num_tokens):
    class Numbers:
        def read(self, start, stop):
            return list(range(start, stop))

    for world_size in (1, 2, 3):
        ranks = [list(_Slices(Numbers(), num_tokens, 16, rank, world_size)) for rank in range(world_size)]
        assert len({len(slices) for slices in ranks}) == 1
        slices = list(chain.from_iterable(ranks))
        assert sorted(chain.from_iterable(slices)) == list(range(num_tokens))
        assert all(0 < len(part) <= 16 for part in slices)


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(suite):
    settings = (
        "train_tokens=262144",
        "pool_tokens=16384",
        "sae.d_sae=256",
        "sae.k=8",
        "nfm_train_tokens=8192",
    )
    for trainer in ("cpu", "ddp_cpu"):
        overrides = (f"trainer={trainer}", f"artifacts={trainer}", f"hydra.run.dir=learn_{trainer}")
        status, printed = suite.run(*settings, *overrides)
        assert status == 0, printed
    one, two = (suite.result(f"learn_{trainer}")["sae"] for trainer in ("cpu", "ddp_cpu"))
    assert two["explained_variance"] == pytest.approx(one["explained_variance"], rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_raises_ends_the_study(suite, rank):
    begun = time.monotonic()
    status, printed = suite.run(
        "trainer=ddp_cpu", f"objectives.reconstruction._target_=faults.RaisesOnRank{rank}", timeout=90
    )
    assert status != 0
    assert f"rank {rank} has no disk" in printed
    assert time.monotonic() - begun < 60 + 30  # of which the start of the processes takes some
    wait_until(lambda: not suite.processes(), 5)


@pytest.mark.slow
def test_studies_of_two_processes_share_what_they_train(suite):
    seed = ("trainer=ddp_cpu", "seed=1", "hydra.sweep.dir=shared", "hydra/launcher=local")
    before = set(suite.artifacts("sae"))
    status, printed = suite.run("nfm.order=1,2", *seed, sweep=True)
    assert status == 0, printed
    assert len(set(suite.artifacts("sae")) - before) == 1
    assert {job["state"] for job in suite.jobs("shared").values()} == {"done"}
