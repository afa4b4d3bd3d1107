"""Files for other tools: by the tools' own formulas they do what our SAE does, on raw activations."""

import json

import peer_formulas
import pytest
import torch
from saes_of_all_families import ABOUT, AFFINE, D_IN, FAMILIES, NORMALIZERS, activations, make_family
from safetensors.torch import load_file

from sae_nfm.interop.loading import load
from sae_nfm.interop.published import Claims
from sae_nfm.interop.saving import WRITABLE, save
from sae_nfm.settings.values import NotAllowed

X = activations()
CASES = [
    (format, family, normalizer, subtracts)
    for format, known in WRITABLE.items()
    for family in known.FAMILIES
    for normalizer in known.NORMALIZERS
    for subtracts in (True, False)
]


def decoder_norms(format, folder):
    if format == "dictionary_learning":
        state = torch.load(folder / "ae.pt", weights_only=True)
        rows = state["W_dec"] if "W_dec" in state else state["decoder.weight"].t()
    else:
        name = {"sae_lens": "sae_weights.safetensors", "sparsify": "sae.safetensors"}[format]
        rows = load_file(folder / name)["W_dec"]
    return rows.norm(dim=1)


@torch.no_grad()
def reconstruction(autoencoder):
    return autoencoder(X).sae


def check_close(found, expected):
    error = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert error.max() < 1e-5


@pytest.mark.parametrize(("format", "family", "normalizer", "subtracts"), CASES)
def test_other_tools_reconstruct_raw_activations(tmp_path, format, family, normalizer, subtracts):
    autoencoder, node = make_family(family, normalizer, subtracts)
    save(autoencoder, node, tmp_path, format, ABOUT)
    forward = getattr(peer_formulas, format)
    latents, found = forward(tmp_path, X.double().numpy())
    check_close(torch.from_numpy(found), reconstruction(autoencoder).double())
    ours = (autoencoder(X).codes.values > 0).sum(-1)
    assert (latents > 0).sum(1).tolist() == ours.tolist()


@pytest.mark.parametrize(("format", "family", "normalizer", "subtracts"), CASES)
def test_read_again_it_is_the_same(tmp_path, format, family, normalizer, subtracts):
    autoencoder, node = make_family(family, normalizer, subtracts)
    save(autoencoder, node, tmp_path, format, ABOUT)
    check_close(reconstruction(load(tmp_path).autoencoder), reconstruction(autoencoder))


@pytest.mark.parametrize(("format", "family", "normalizer", "subtracts"), CASES)
def test_decoder_rows_have_unit_norm_where_that_changes_nothing(
    tmp_path, format, family, normalizer, subtracts
):
    autoencoder, node = make_family(family, normalizer, subtracts)
    save(autoencoder, node, tmp_path, format, ABOUT)
    compares = family in ("topk",) if format == "sae_lens" else family in ("topk", "batch_topk", "matryoshka")
    norms = decoder_norms(format, tmp_path)
    if compares and normalizer == "per_dimension":
        torch.testing.assert_close(norms, (autoencoder.sae.W_dec * autoencoder.normalizer.scale).norm(dim=1))
    else:
        torch.testing.assert_close(norms, torch.ones_like(norms))


def test_matryoshka_keeps_its_groups(tmp_path):
    autoencoder, node = make_family("matryoshka")
    save(autoencoder, node, tmp_path, "dictionary_learning", ABOUT)
    assert torch.load(tmp_path / "ae.pt", weights_only=True)["group_sizes"].tolist() == [10, 10, 20]
    assert load(tmp_path).sae.sizes == autoencoder.sae.sizes == [10, 20, 40]


def test_a_dead_decoder_row_is_left_at_zero(tmp_path):
    autoencoder, node = make_family("relu")
    with torch.no_grad():
        autoencoder.sae.W_dec[3] = 0
    save(autoencoder, node, tmp_path, "sae_lens", ABOUT)
    assert decoder_norms("sae_lens", tmp_path)[3] == 0
    check_close(reconstruction(load(tmp_path).autoencoder), reconstruction(autoencoder))


@pytest.mark.parametrize("format", WRITABLE)
def test_what_is_known_is_written(tmp_path, format):
    folder = tmp_path / "layers.3"
    save(*make_family("topk"), folder, format, ABOUT)
    known = {
        "sae_lens": Claims("gpt2", 3, "resid_post", 64, True, 5, 0.9),
        "dictionary_learning": Claims("gpt2", 3, "resid_post", 64, l0=5),
        "sparsify": Claims(layer=3, hook="resid_post", l0=5),
    }
    assert load(folder).claims == known[format]


@pytest.mark.parametrize("format", [*WRITABLE, "sae_nfm"])
def test_nothing_need_be_known(tmp_path, format):
    save(*make_family("topk"), tmp_path, format)
    assert load(tmp_path).claims._replace(l0=None) == Claims()


def test_model_card_has_the_figures(tmp_path):
    save(*make_family("topk"), tmp_path, "sae_lens", ABOUT)
    card = (tmp_path / "README.md").read_text()
    for row in (
        "| language model | gpt2 |",
        "| site | blocks.3.hook_resid_post |",
        "| corpus | stories |",
        "| family | topk |",
        f"| d_in, d_sae | {D_IN}, 40 |",
        "| explained variance | 0.9 |",
        "| mean KL(clean‖spliced), nats per token | 0.125 |",
        "SAE.load_from_disk",
    ):
        assert row in card
    assert "never fire" not in card


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "topk"])
def test_sparsify_has_topk_alone(tmp_path, family):
    with pytest.raises(NotAllowed, match=rf"family={family}.*allowed are topk"):
        save(*make_family(family), tmp_path / "out", "sparsify")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", ["dictionary_learning", "sparsify"])
@pytest.mark.parametrize("normalizer", [kind for kind in NORMALIZERS if kind not in AFFINE])
def test_units_of_each_token_only_where_the_tool_has_them(tmp_path, format, normalizer):
    with pytest.raises(NotAllowed, match=f"normalizer={normalizer}.*{format}.*scalar, per_dimension, none"):
        save(*make_family("topk", normalizer), tmp_path, format)


def test_a_format_that_there_is_not(tmp_path):
    with pytest.raises(NotAllowed, match=r"format=saelens.*sae_lens, dictionary_learning, sparsify, sae_nfm"):
        save(*make_family("topk"), tmp_path, "saelens")


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotAllowed, match="out="):
        save(*make_family("topk"), tmp_path / "file", "sae_lens")


def test_sae_lens_config_is_of_version_6(tmp_path):
    save(*make_family("batch_topk"), tmp_path, "sae_lens", ABOUT)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config["architecture"] == "jumprelu"
    assert config["normalize_activations"] == "none"
    assert config["metadata"]["sae_lens_version"] == "6.0.0"
    assert config["metadata"]["hook_name"] == "blocks.3.hook_resid_post"
    assert config["metadata"]["dataset_path"] == "stories"
