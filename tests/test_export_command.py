"""`python -m sae_nfm.export`."""

import json

import huggingface_hub
import pytest
import torch

from sae_nfm import export
from sae_nfm.interop import sae_nfm
from sae_nfm.interop.loading import load
from sae_nfm.interop.published import target_of
from sae_nfm.models.autoencoder import Autoencoder
from small_models import NFM_SETTINGS, make_autoencoder

ABOUT = {"lm": {"name": "gpt2"}, "site": {"layer": 3, "hook": "mlp_out"}, "explained_variance": 0.75}
D_IN = 8


@pytest.fixture
def study(tmp_path):
    """A run, the artifacts that its result names, and what they are."""
    autoencoder = make_autoencoder(D_IN)
    sae, nfm = tmp_path / "artifacts" / "sae" / "01", tmp_path / "artifacts" / "nfm" / "23"
    alone = Autoencoder(autoencoder.normalizer, autoencoder.sae)
    node = {"_target_": target_of(autoencoder.sae), "d_sae": 64, "k": 4}
    sae_nfm.write(alone, sae_nfm.sae_config(alone, node, ABOUT), sae)
    node = {"_target_": target_of(autoencoder.nfm), **NFM_SETTINGS}
    sae_nfm.write(autoencoder.nfm, sae_nfm.residual_config(autoencoder.nfm, node, {}), nfm)
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    named = {
        name: {"kind": name, "fingerprint": folder.name, "path": str(folder)}
        for name, folder in (("sae", sae), ("nfm", nfm))
    }
    (run / "result.json").write_text(json.dumps({"artifacts": named}))
    return run, sae, autoencoder


def run_export(source, format, out, *more):
    return export.main([str(source), "--format", format, "--out", str(out), *more])


@pytest.mark.parametrize("format", ["sae_lens", "dictionary_learning", "sparsify", "sae_nfm"])
@pytest.mark.parametrize("of", ["run", "artifact"])
def test_the_sae_of_a_run_or_an_artifact(study, tmp_path, capsys, format, of):
    run, artifact, autoencoder = study
    out = tmp_path / "layers.3.mlp"
    assert run_export(run if of == "run" else artifact, format, out) == 0
    x = torch.randn(64, D_IN)
    with torch.no_grad():
        torch.testing.assert_close(
            load(out, format=format).autoencoder(x).sae, autoencoder(x).sae, rtol=1e-5, atol=1e-5
        )
    claims = load(out).claims
    assert (claims.layer, claims.hook) == (3, "mlp_out")
    assert "| explained variance | 0.75 |" in (out / "README.md").read_text()
    said = capsys.readouterr().out
    assert f"topk SAE in the format of {format}: {out}" in said
    assert ("the NFM is left out" in said) == (of == "run" and format != "sae_nfm")


@pytest.mark.parametrize("of", ["run", "export"])
def test_the_nfm_of_a_run_or_of_what_was_exported(study, tmp_path, capsys, of):
    source, _, autoencoder = study
    if of == "export":
        assert run_export(source, "sae_nfm", tmp_path / "before") == 0
        source = tmp_path / "before"
    assert run_export(source, "sae_lens", tmp_path / "other") == 0
    assert "the NFM is left out" in capsys.readouterr().out
    assert run_export(source, "sae_nfm", tmp_path / "out") == 0
    assert f"its NFM: {tmp_path / 'out' / 'nfm'}" in capsys.readouterr().out
    model, config = sae_nfm.read_residual(tmp_path / "out" / "nfm")
    codes = autoencoder(torch.randn(64, D_IN)).codes
    with torch.no_grad():
        torch.testing.assert_close(model(codes).total, autoencoder.nfm(codes).total, rtol=0, atol=0)
    assert config["family"] == "nfm"


def test_paths_of_a_run_that_are_relative_to_it(study, tmp_path):
    run, artifact, _ = study
    (run / "mine").symlink_to(artifact)
    (run / "result.json").write_text(json.dumps({"artifacts": {"sae": {"path": "mine"}}}))
    assert run_export(run, "sae_lens", tmp_path / "out") == 0


def test_from_one_tool_to_another(study, tmp_path):
    _, artifact, autoencoder = study
    assert run_export(artifact, "sparsify", tmp_path / "layers.3.mlp") == 0
    assert run_export(tmp_path / "layers.3.mlp", "sae_lens", tmp_path / "out") == 0
    x = torch.randn(64, D_IN)
    with torch.no_grad():
        torch.testing.assert_close(
            load(tmp_path / "out").autoencoder(x).sae, autoencoder(x).sae, rtol=1e-5, atol=1e-5
        )
    assert load(tmp_path / "out").claims.layer == 3


def check_refused(capsys, said, *arguments):
    assert run_export(*arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1


def test_what_cannot_be_exported_is_told_in_a_line(study, tmp_path, capsys):
    run, _, _ = study
    out = tmp_path / "out"
    check_refused(capsys, "path=", tmp_path / "nowhere", "sae_lens", out)
    (run / "result.json").write_text("{}")
    check_refused(capsys, "artifacts=nothing", run, "sae_lens", out)
    (run / "result.json").write_text(json.dumps({"artifacts": {"nfm": {"path": str(run)}}}))
    check_refused(capsys, "results that name an sae", run, "sae_lens", out)
    (run / "result.json").write_text(json.dumps({"artifacts": {"sae": {"path": "gone"}}}))
    check_refused(capsys, "artifacts.sae=gone", run, "sae_lens", out)
    check_refused(capsys, "no_such_module", run, "sae_lens", out, "--import", "no_such_module")
    assert not out.exists()


def test_a_hub_that_cannot_be_reached(study, tmp_path, capsys, monkeypatch):
    run, _, _ = study

    class Api:
        def create_repo(self, name, exist_ok):
            raise ConnectionError("offline mode is enabled\nand more")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    check_refused(capsys, "path=me/sae", run, "sae_lens", tmp_path / "out", "--push", "me/sae")


def test_a_module_with_a_family_of_the_callers_own(study, tmp_path, monkeypatch):
    _, artifact, _ = study
    code = "from sae_nfm.models.saes.topk import TopKSAE\n\n\nclass OwnSAE(TopKSAE):\n    pass\n"
    (tmp_path / "own_family.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    config = json.loads((artifact / "config.json").read_text())
    config["sae"]["_target_"] = "own_family.OwnSAE"
    (artifact / "config.json").write_text(json.dumps(config))
    assert run_export(artifact, "sae_nfm", tmp_path / "out") == 1
    assert run_export(artifact, "sae_nfm", tmp_path / "out", "--import", "own_family") == 0
    assert load(tmp_path / "out").family == "own_family"
