"""`load` of all that holds a dictionary, and what it says where something is missing."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import sae_nfm
from sae_nfm.export import export
from sae_nfm.settings.values import NotAllowed

TEXT = "the shape of the array"


def changed(path, **settings):
    """Change settings in a JSON file; None takes one away."""
    said = json.loads(path.read_text())
    for name, value in settings.items():
        said[name] = value
    path.write_text(json.dumps({name: value for name, value in said.items() if value is not None}))


@pytest.fixture
def first(project, lm):
    return sae_nfm.load("runs/first", lm=lm)


@pytest.fixture
def copied(project, tmp_path):
    """The SAE in SAELens's format, to change it."""
    return shutil.copytree("published/sae_lens", tmp_path / "copied")


def check_same(first, other, condition):
    torch.testing.assert_close(first.kl(TEXT, condition), other.kl(TEXT, condition), rtol=1e-4, atol=1e-6)
    assert other.site == first.site
    assert (other.nfm is None) == (condition == "sae")


def test_a_run_an_artifact_a_file(first, result):
    paths = {name: result["artifacts"][name]["path"] for name in ("sae", "nfm")}
    check_same(first, sae_nfm.load(paths["sae"]), "sae")
    check_same(first, sae_nfm.load(paths["nfm"]), "sae_nfm")
    check_same(first, sae_nfm.load("published/sae_lens"), "sae")
    check_same(first, sae_nfm.load("published/sae_lens/sae_weights.safetensors"), "sae")
    check_same(first, sae_nfm.load(Path("published"), file="sae_lens", format="sae_lens"), "sae")


def test_sae_and_nfm_published_together(first, tmp_path):
    export("runs/first", "sae_nfm", tmp_path / "both")
    check_same(first, sae_nfm.load(tmp_path / "both"), "sae_nfm")
    check_same(first, sae_nfm.load(tmp_path / "both" / "nfm"), "sae_nfm")


def test_a_run_that_was_moved_with_its_artifacts(first, project, tmp_path, monkeypatch):
    for name in ("runs", "artifacts"):
        shutil.copytree(project / name, tmp_path / "elsewhere" / name)
    monkeypatch.chdir(tmp_path)
    check_same(first, sae_nfm.load("elsewhere/runs/first"), "sae_nfm")


def test_a_model_that_is_there_is_not_loaded_again(first, lm):
    assert first.lm is lm


def test_a_model_that_was_moved(first, copied):
    changed(copied / "cfg.json", metadata={"hook_name": "blocks.3.hook_resid_post", "model_name": "/gone"})
    with pytest.raises(NotAllowed, match="lm=/gone: no such folder"):
        sae_nfm.load(copied).kl(TEXT)
    check_same(first, sae_nfm.load(copied, lm=first.lm.path), "sae")


def test_what_only_the_caller_can_say(first, copied):
    changed(copied / "cfg.json", metadata=None)
    with pytest.raises(NotAllowed, match=r"layer=null: its files do not say it; .*load\(…, layer=…\)"):
        sae_nfm.load(copied)
    with pytest.raises(NotAllowed, match="hook=null"):
        sae_nfm.load(copied, layer=3)
    with pytest.raises(NotAllowed, match="lm=null"):
        sae_nfm.load(copied, layer=3, hook="resid_post")
    check_same(first, sae_nfm.load(copied, layer=3, hook="resid_post", lm=first.lm), "sae")


def test_what_contradicts_the_files(project):
    with pytest.raises(NotAllowed, match=r"layer=2: .* another layer; allowed are 3"):
        sae_nfm.load("runs/first", layer=2)
    with pytest.raises(NotAllowed, match="path=no/such/run: allowed are folders, files"):
        sae_nfm.load("no/such/run")


def test_what_a_reader_has_to_say_is_a_warning(project, copied):
    changed(copied / "cfg.json", normalize_activations="expected_average_only_in")
    with pytest.warns(UserWarning, match="the factor is in none of its files"):
        sae_nfm.load(copied)


def test_an_nfm_needs_its_sae_and_the_models_own_residual(project, result, tmp_path):
    nfm = Path(result["artifacts"]["nfm"]["path"])
    alone = shutil.copytree(nfm, tmp_path / "nfm" / "01")
    with pytest.raises(NotAllowed, match=f"its SAE {result['artifacts']['sae']['fingerprint']} is not there"):
        sae_nfm.load(alone)
    shutil.copytree(result["artifacts"]["sae"]["path"], tmp_path / "sae" / "02")
    changed(alone / "config.json", on={"sae": "02", "plant": {"kind": "pairs"}})
    with pytest.raises(NotAllowed, match=r"plant=pairs: .* a residual that was planted"):
        sae_nfm.load(alone)
