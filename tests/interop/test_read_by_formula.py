"""What the fixtures do not have: old tensors, checkpoints and backups, by their formulas."""

import json
import shutil

import numpy as np
import pytest
import torch
from peer_formulas import relu
from safetensors.torch import load_file, save_file
from test_read import FIXTURES, X, folder_of, largest_relative_error

from sae_nfm.interop.loading import load
from sae_nfm.interop.sites import site_of
from sae_nfm.settings.values import NotAllowed


@pytest.fixture
def flat(tmp_path):
    """A flat SAE of SAELens, changed by what it is given."""

    def make(name="flat_standard", settings=None, tensors=None):
        folder = tmp_path / "flat"
        shutil.copytree(FIXTURES / "sae_lens" / name, folder)
        config = json.loads((folder / "cfg.json").read_text()) | (settings or {})
        (folder / "cfg.json").write_text(json.dumps(config))
        state = load_file(folder / "sae_weights.safetensors") | (tensors or {})
        save_file(state, folder / "sae_weights.safetensors")
        return folder, {name: tensor.double().numpy() for name, tensor in state.items()}

    return make


@torch.no_grad()
def reconstruction(published, x=X):
    return published.autoencoder(x).sae


def check(published, expected):
    assert largest_relative_error(reconstruction(published).double(), torch.from_numpy(expected)) < 1e-5


def pre_activations(w):
    return (X.double().numpy() - w["b_dec"]) @ w["W_enc"] + w["b_enc"]


@pytest.mark.parametrize("name", ["scaling_factor", "finetuning_scaling_factor"])
def test_latents_scaled_before_the_decoder(flat, name):
    folder, w = flat(settings={"finetuning_scaling_factor": True}, tensors={name: torch.linspace(0.5, 2, 48)})
    check(load(folder), relu(pre_activations(w)) * w[name] @ w["W_dec"] + w["b_dec"])


def test_a_scale_of_1_needs_no_permission(flat):
    folder, w = flat(tensors={"scaling_factor": torch.ones(48)})
    check(load(folder), relu(pre_activations(w)) @ w["W_dec"] + w["b_dec"])


@pytest.mark.parametrize(("name", "of"), [("log_threshold", np.exp), ("threshold", np.asarray)])
def test_thresholds_and_their_logarithms(flat, name, of):
    thresholds = torch.linspace(-1, 1, 48)
    folder, w = flat(settings={"architecture": "jumprelu"}, tensors={name: thresholds})
    pre = pre_activations(w)
    check(load(folder), relu(pre) * (pre > of(w[name])) @ w["W_dec"] + w["b_dec"])


def test_an_encoder_that_does_not_subtract_b_dec(flat):
    folder, w = flat(settings={"apply_b_dec_to_input": False})
    pre = X.double().numpy() @ w["W_enc"] + w["b_enc"]
    check(load(folder), relu(pre) @ w["W_dec"] + w["b_dec"])


def test_rescaling_by_decoder_norms_changes_which_are_the_top_k(flat):
    rows = load_file(folder_of("sae_lens/flat_topk") / "sae_weights.safetensors")["W_dec"]
    W_dec = rows * torch.linspace(0.2, 5, 48).unsqueeze(1)
    folder, _ = flat("flat_topk", tensors={"W_dec": W_dec})
    plain = load(folder).autoencoder(X).codes
    (folder / "cfg.json").write_text(
        json.dumps(json.loads((folder / "cfg.json").read_text()) | {"rescale_acts_by_decoder_norm": True})
    )
    rescaled = load(folder)
    torch.testing.assert_close(rescaled.sae.W_dec.norm(dim=1), torch.ones(48))
    codes = rescaled.autoencoder(X).codes
    assert (codes.indices.sort().values != plain.indices.sort().values).any()


def test_a_scale_that_stands_beside_the_weights(flat):
    settings = {"normalize_activations": "expected_average_only_in"}
    folder, w = flat(settings=settings)
    (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": 0.25}))
    published = load(folder)
    pre = (0.25 * X.double().numpy() - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    check(published, 4 * (relu(pre) @ w["W_dec"] + w["b_dec"]))
    assert folder / "activation_scaler.json" in published.files
    assert not published.warnings


@pytest.mark.parametrize("said", [True, "expected_average_only_in"])
def test_a_scale_that_is_nowhere_is_told(flat, said):
    folder, w = flat(settings={"normalize_activations": said})
    published = load(folder)
    check(published, relu(pre_activations(w)) @ w["W_dec"] + w["b_dec"])
    (warning,) = published.warnings
    assert str(folder / "cfg.json") in warning
    assert "expected_average_only_in" in warning


def test_l0_of_how_often_latents_fired(flat):
    folder, _ = flat()
    frequencies = torch.linspace(0, 1, 48)
    save_file({"sparsity": torch.log10(frequencies + 1e-10)}, folder / "sparsity.safetensors")
    assert load(folder).claims.l0 == pytest.approx(24, rel=1e-4)


def test_half_precision_becomes_single_and_double_stays(flat):
    folder, _ = flat()
    for dtype, expected in (
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float64, torch.float64),
    ):
        state = load_file(folder / "sae_weights.safetensors")
        changed = {name: tensor.to(dtype) for name, tensor in state.items()}
        save_file(changed, folder / "sae_weights.safetensors")
        sae = load(folder).sae
        assert sae.W_dec.dtype == expected
        torch.testing.assert_close(sae.W_dec, changed["W_dec"].to(expected), rtol=0, atol=0)


def test_a_matryoshka_checkpoint(flat):
    settings = {"architecture": "matryoshka_batchtopk", "k": 3.6, "matryoshka_widths": [12, 24, 48]}
    folder, w = flat(settings=settings, tensors={"topk_threshold": torch.tensor(0.5, dtype=torch.float64)})
    published = load(folder)
    pre = pre_activations(w)
    check(published, relu(pre) * (pre > 0.5) @ w["W_dec"] + w["b_dec"])
    assert published.family == "matryoshka"
    assert published.sae.sizes == [12, 24, 48]
    assert published.sae.k == 4


def test_a_backup_has_its_normaliser_beside_its_weights(tmp_path):
    folder = folder_of("dictionary_learning/topk")
    state = torch.load(folder / "ae.pt", weights_only=True)
    backup = {"step": 7, "ae": state, "optimizer": {}, "config": {"k": 4}, "norm_factor": 2.0}
    torch.save(backup, tmp_path / "ae.pt")
    shutil.copy(folder / "config.json", tmp_path)
    expected = 2 * reconstruction(load(folder), X / 2)
    torch.testing.assert_close(reconstruction(load(tmp_path)), expected)


def test_a_checkpoint_below_its_settings(tmp_path):
    folder = folder_of("dictionary_learning/topk")
    shutil.copy(folder / "config.json", tmp_path)
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(folder / "ae.pt", tmp_path / "checkpoints" / "ae_100.pt")
    found = load(tmp_path, "checkpoints/ae_100.pt")
    torch.testing.assert_close(reconstruction(found), reconstruction(load(folder)))
    assert found.files == (tmp_path / "checkpoints" / "ae_100.pt", tmp_path / "config.json")


def test_a_threshold_that_was_never_estimated_is_told(tmp_path):
    folder = folder_of("dictionary_learning/batch_topk")
    state = torch.load(folder / "ae.pt", weights_only=True)
    torch.save(state | {"threshold": torch.tensor(-1.0)}, tmp_path / "ae.pt")
    shutil.copy(folder / "config.json", tmp_path)
    published = load(tmp_path)
    w = {name: tensor.double().numpy() for name, tensor in state.items()}
    pre = (X.double().numpy() - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]
    check(published, relu(pre) @ w["decoder.weight"].T + w["b_dec"])
    assert "never estimated" in published.warnings[0]


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("blocks.12.hook_resid_pre", (12, "resid_pre")),
        ("blocks.0.hook_attn_out", (0, "attn_out")),
        ("blocks.4.hook_out", (4, "resid_post")),
        ("blocks.4.hook_in", (4, "resid_pre")),
        ("blocks.4.mlp.hook_out", (4, "mlp_out")),
        ("blocks.4.attn.hook_out", (4, "attn_out")),
        ("layers.20", (20, "resid_post")),
        ("layers_20", (20, "resid_post")),
        ("model.layers.20.mlp", (20, "mlp_out")),
        ("transformer.h.5.attn", (5, "attn_out")),
        ("gpt_neox.layers.3.output", (3, "resid_post")),
        ("resid_post_layer_8", (8, "resid_post")),
        (None, (None, None)),
    ],
)
def test_names_of_sites(name, site):
    assert site_of(name, "hook_name") == site


@pytest.mark.parametrize(
    "name", ["blocks.3.attn.hook_z", "hook_embed", "blocks.3.hook_mlp_in", "blocks.3.ln2.hook_normalized"]
)
def test_sites_that_there_are_not(name):
    with pytest.raises(NotAllowed, match=f"hook_name={name}.*resid_pre, resid_post, mlp_out, attn_out"):
        site_of(name, "hook_name")
