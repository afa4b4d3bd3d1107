"""`plan=true`: what it lists is what the study then makes, and it makes nothing itself."""

import json
from types import SimpleNamespace

import pytest

from sae_nfm.planning import plan as planning
from sae_nfm.planning.costs import Memory
from sae_nfm.planning.plan import Line, Plan
from sae_nfm.planning.workshop import Planned
from sae_nfm.recipes.recipe import Demand
from sae_nfm.settings.values import NotAllowed
from tiny_studies import Suite

STUDY = ("evaluation.baselines=[eps,cov]", "evaluation.covariance_tokens=2000", "evaluation.bank_tokens=300")


def planned_by(suite, *overrides):
    status, printed = suite.run(*STUDY, *overrides, "plan=true", "hydra.run.dir=plan")
    assert status == 0, printed
    return json.loads((suite.folder / "plan" / "plan.json").read_text()), printed


def size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "overrides",
    [(), ("activations=cached",), ("stages=[sae,nfm_linear,nfm,finetune]", "stage.finetune.tokens=8192")],
    ids=["streamed", "cached", "tuned"],
)
def test_what_it_lists_is_what_is_made(tmp_path, corpus_file, overrides):
    suite = Suite(tmp_path, corpus_file)
    plan, printed = planned_by(suite, *overrides)
    store = tmp_path / "artifacts"
    assert [path.name for path in store.iterdir()] == ["tokens"]
    before = size(store)
    status, said = suite.run(*STUDY, *overrides, "hydra.run.dir=study")
    assert status == 0, said
    made = {
        (kind.name, folder.name)
        for kind in store.iterdir()
        for folder in kind.iterdir()
        if folder.is_dir() and kind.name not in ("tokens", "activations")
    }
    assert {(each["kind"], each["fingerprint"]) for each in plan["artifacts"].values()} == made
    assert sum(plan["disk"].values()) == pytest.approx(size(store) - before, rel=0.25)  # of a tiny study
    result = suite.result("study")
    assert plan["evaluation"]["positions"] == result["positions"]
    assert plan["evaluation"]["measurements"] == result["measurements"]
    assert not any(each["there"] for each in plan["artifacts"].values())
    again, _ = planned_by(suite, *overrides)
    assert all(each["there"] for each in again["artifacts"].values())
    assert again["disk"] == {}
    assert "memory: " in printed
    assert not (tmp_path / "plan" / "result.json").exists()


def plan_of(memory, disk):
    line = Line(Planned("sae", "sae", "0", False, Demand(1, 1)), 1.0, 1.0, Memory(0, memory, 0))
    return Plan([line], line, 1, 1, {"sae": disk}, 1000 + memory, "cpu")


def test_what_has_no_room_is_refused_by_name(tmp_path, monkeypatch):
    workshop = SimpleNamespace(
        activations=SimpleNamespace(
            lm=SimpleNamespace(device="cpu"), cfg=SimpleNamespace(trainer=SimpleNamespace(accelerator="cpu"))
        ),
        store=SimpleNamespace(root=tmp_path / "artifacts"),
    )
    monkeypatch.setattr(planning, "free_bytes", lambda device: 5_000_000_000)
    monkeypatch.setattr(planning.shutil, "disk_usage", lambda path: SimpleNamespace(free=2_000_000_000))
    planning._refuse_what_has_no_room(plan_of(4_000_000_000, 1_000_000_000), workshop, 1000)
    with pytest.raises(NotAllowed, match=r"artifacts=.*: 2\.0 GB are free there; allowed are .* 3\.0 GB"):
        planning._refuse_what_has_no_room(plan_of(0, 3_000_000_000), workshop, 1000)
    with pytest.raises(NotAllowed, match=r"trainer.accelerator=cpu: 5\.0 GB are free on cpu.* 6\.0 GB more"):
        planning._refuse_what_has_no_room(plan_of(6_000_000_000, 0), workshop, 1000)
