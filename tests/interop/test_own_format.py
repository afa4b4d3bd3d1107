"""Our own artifacts: written, described and read again, without importing what a file names."""

import json
import sys

import pytest
import torch
from saes_of_all_families import ABOUT, D_IN, D_SAE, FAMILIES, NORMALIZERS, activations, make_family

from sae_nfm.interop import sae_nfm
from sae_nfm.interop.loading import load
from sae_nfm.interop.published import Claims
from sae_nfm.interop.saving import save
from sae_nfm.models.saes.base import SparseAutoencoder
from sae_nfm.settings.values import NotAllowed
from small_models import NFM_SETTINGS, make_autoencoder, make_nfm

X = activations()
NODE = {"_target_": "sae_nfm.models.residuals.nfm.NeuralFactorizationMachine", **NFM_SETTINGS}


class ToySAE(SparseAutoencoder):
    """One of the caller's own."""

    def encode(self, x):
        return torch.topk(self.pre_activations(x), 2)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("subtracts", [True, False])
def test_what_is_written_is_read_bit_for_bit(tmp_path, family, normalizer, subtracts):
    autoencoder, node = make_family(family, normalizer, subtracts)
    save(autoencoder, node, tmp_path, "sae_nfm", ABOUT)
    published = load(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(published.autoencoder(X).sae, autoencoder(X).sae, rtol=0, atol=0)
    assert published.family == family
    assert published.normalizer.kind == normalizer
    assert published.sae.subtracts_b_dec is subtracts
    assert published.claims == Claims("gpt2", 3, "resid_post", 64, True, 5.0, 0.9)
    assert published.files == (tmp_path / "weights.safetensors", tmp_path / "config.json")


def test_config_says_all_that_its_documentation_says(tmp_path):
    autoencoder, node = make_family("topk")
    save(autoencoder, node, tmp_path, "sae_nfm", ABOUT)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == ABOUT | {
        "format": "sae_nfm",
        "family": "topk",
        "sae": {"_target_": "sae_nfm.models.saes.topk.TopKSAE", "d_in": D_IN, "d_sae": D_SAE, "k": 5},
        "normalizer": "scalar",
        "d_in": D_IN,
        "d_sae": D_SAE,
        "subtracts_b_dec": True,
    }
    assert load(tmp_path).about == config


def test_an_nfm_is_read_bit_for_bit(tmp_path):
    autoencoder = make_autoencoder(D_IN)
    config = sae_nfm.residual_config(autoencoder.nfm, NODE, {"residual_explained": 0.25})
    sae_nfm.write(autoencoder.nfm, config, tmp_path)
    model, found = sae_nfm.read_residual(tmp_path)
    codes = autoencoder(X).codes
    with torch.no_grad():
        for ours, theirs in zip(model(codes), autoencoder.nfm(codes), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert found == config
    assert found["family"] == "nfm"
    assert (found["d_sae"], found["d_out"], found["residual_explained"]) == (64, D_IN, 0.25)


def test_an_nfm_is_no_sae(tmp_path):
    model = make_nfm(64, D_IN)
    sae_nfm.write(model, sae_nfm.residual_config(model, NODE, {}), tmp_path)
    with pytest.raises(NotAllowed, match=rf"sae=nothing: in {tmp_path / 'config.json'}"):
        load(tmp_path)


def named(tmp_path, target):
    save(*make_family("topk"), tmp_path, "sae_nfm")
    config = json.loads((tmp_path / "config.json").read_text())
    config["sae"]["_target_"] = target
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "sae_nfm.store.files.os.system",
        "sae_nfm.models.normalizer.Normalizer",
        "sae_nfm.models.residuals.nfm.NeuralFactorizationMachine",
        "sae_nfm.models.saes.topk",
        "sae_nfm.no.such.SAE",
        "code_of_others.SAE",
    ],
)
def test_a_file_imports_nothing_but_families_of_ours(tmp_path, monkeypatch, target):
    (tmp_path / "code_of_others.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    folder = named(tmp_path / "artifact", target)
    with pytest.raises(NotAllowed, match=f"_target_={target}: in {folder / 'config.json'}"):
        load(folder)
    assert "code_of_others" not in sys.modules


def test_a_family_that_the_caller_has_imported(tmp_path):
    torch.manual_seed(0)
    autoencoder, _ = make_family("topk")
    autoencoder.sae = ToySAE(D_IN, D_SAE)
    save(autoencoder, {"_target_": f"{__name__}.ToySAE", "d_sae": D_SAE}, tmp_path, "sae_nfm")
    sae = load(tmp_path).sae
    assert type(sae) is ToySAE
    torch.testing.assert_close(sae.W_dec, autoencoder.sae.W_dec)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "theirs"}, "format=theirs"),
        ({"normalizer": "cube"}, "normalizer=cube"),
        ({"d_in": D_IN + 1}, r"mean=\[10\].*allowed are \[11\]"),
        ({"subtracts_b_dec": None}, "subtracts_b_dec=nothing"),
    ],
)
def test_config_and_weights_that_contradict_each_other(tmp_path, changes, said):
    save(*make_family("topk"), tmp_path, "sae_nfm")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(NotAllowed, match=said) as error:
        load(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"k": 99}, "k=99: in {}; allowed are 1 to"),
        ({"kk": 1}, "TopKSAE: in {}: got an unexpected keyword argument 'kk'"),
        ({"k": None}, "k="),
    ],
)
def test_settings_that_the_class_does_not_allow(tmp_path, settings, said):
    save(*make_family("topk"), tmp_path, "sae_nfm")
    config = json.loads((tmp_path / "config.json").read_text())
    config["sae"] |= settings
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(NotAllowed) as error:
        load(tmp_path)
    assert said.format(tmp_path) in str(error.value)


def test_a_setting_that_the_class_needs(tmp_path):
    save(*make_family("topk"), tmp_path, "sae_nfm")
    config = json.loads((tmp_path / "config.json").read_text())
    del config["sae"]["k"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(NotAllowed, match=f"_target_=.*TopKSAE: in {tmp_path}: missing.*'k'"):
        load(tmp_path)


def test_settings_of_another_size_than_the_weights(tmp_path):
    save(*make_family("topk"), tmp_path, "sae_nfm")
    config = json.loads((tmp_path / "config.json").read_text())
    config["sae"]["d_sae"] = D_SAE + 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(NotAllowed, match=r"W_dec=\[40, 10\].*allowed are \[41, 10\]"):
        load(tmp_path)
