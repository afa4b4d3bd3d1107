"""SAEs that other tools trained and wrote (`benchmarks/make_fixtures.py`): read here, they do the same."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sae_nfm.interop.fits import check_fits
from sae_nfm.interop.loading import load
from sae_nfm.interop.published import Claims
from sae_nfm.lm.model import Site
from sae_nfm.measures.quality import DictionaryQuality
from sae_nfm.models.saes.base import keep_row_norms_
from sae_nfm.settings.values import NotAllowed

FIXTURES = Path(__file__).parent / "fixtures"
EXPECTED = dict(np.load(FIXTURES / "expected.npz"))
X = torch.from_numpy(np.load(FIXTURES / "inputs.npz")["x"])
GPT2 = Claims("gpt2-small", 3, "resid_post", 64)
GEMMA = "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71"
GEMMA_2 = "gemma-scope-2-1b-pt/resid_post/layer_7_width_16k_l0_medium"
FAMILIES = {
    "sae_lens/standard": "relu",
    "sae_lens/gated": "gated",
    "sae_lens/jumprelu": "jumprelu",
    "sae_lens/topk": "topk",
    "sae_lens/topk_unfolded": "topk",
    "sae_lens/topk_constant_norm": "topk",
    "sae_lens/standard_layer_norm": "relu",
    "sae_lens/gated_without_b_dec": "gated",
    "sae_lens/jumprelu_scaled": "jumprelu",
    "sae_lens/batch_topk": "jumprelu",
    "sae_lens/batch_topk_checkpoint": "batch_topk",
    "sae_lens/matryoshka": "jumprelu",
    "sae_lens/flat_standard": "relu",
    "sae_lens/flat_topk": "topk",
    GEMMA: "jumprelu",
    GEMMA_2: "jumprelu",
    "dictionary_learning/standard": "relu",
    "dictionary_learning/april": "relu",
    "dictionary_learning/gated": "gated",
    "dictionary_learning/jumprelu": "jumprelu",
    "dictionary_learning/topk": "topk",
    "dictionary_learning/batch_topk": "batch_topk",
    "dictionary_learning/matryoshka": "matryoshka",
    "sparsify/expansion": "topk",
    "sparsify/num_latents": "topk",
}


def folder_of(name):
    return FIXTURES / name / "layers.3" if name.startswith("sparsify") else FIXTURES / name


def largest_relative_error(found, expected):
    return ((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max().item()


@torch.no_grad()
def quality(autoencoder):
    measured = DictionaryQuality(X.shape[1], autoencoder.sae.d_sae)
    measured.update(autoencoder(X))
    return measured.compute()


def test_every_fixture_is_read():
    assert set(FAMILIES) == set(EXPECTED)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_step_of_no_length_leaves_what_it_reconstructs(name):
    """Decoders trained elsewhere have rows of other norms than 1, and codes to go with them."""
    autoencoder = load(folder_of(name)).autoencoder
    sae, x = autoencoder.sae, X[:256]
    expected, rows = autoencoder(x).sae, sae.W_dec.clone()
    keep_row_norms_(sae)
    sae.W_dec.grad = rows.clone()
    sae.before_step_()
    assert float(sae.W_dec.grad.norm()) < 1e-2 * float(rows.norm())  # all of it was along the rows
    sae.W_dec.mul_(1.5)
    sae.after_step_()
    torch.testing.assert_close(sae.W_dec, rows, rtol=1e-3, atol=1e-6)
    assert largest_relative_error(autoencoder(x).sae, expected) < 1e-2


@pytest.mark.parametrize("name", FAMILIES)
def test_read_as_its_own_tool_reads_it(name):
    published = load(folder_of(name))
    expected = torch.from_numpy(EXPECTED[name])
    with torch.no_grad():
        found = published.autoencoder(X).sae
    assert published.family == FAMILIES[name]
    assert not published.warnings
    assert largest_relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_explained_variance_as_of_its_own_tool(name):
    error = (X.double() - EXPECTED[name]).pow(2).sum()
    expected = 1 - error / (X.double() - X.double().mean(0)).pow(2).sum()
    assert quality(load(folder_of(name)).autoencoder)["explained_variance"] == pytest.approx(
        float(expected), rel=1e-5
    )


@pytest.mark.parametrize(
    ("name", "claims"),
    [
        ("sae_lens/topk", GPT2._replace(l0=4)),
        ("sae_lens/flat_topk", GPT2._replace(l0=4, prepend_bos=True)),
        ("sae_lens/standard", GPT2),
        (GEMMA, Claims("google/gemma-2-2b", 20, "resid_post", l0=71)),
        (GEMMA_2, Claims("google/gemma-3-1b-pt", 7, "resid_post", l0=20)),
        ("dictionary_learning/batch_topk", Claims("gpt2", 3, "resid_post", 64, l0=4)),
        ("sparsify/expansion", Claims("gpt2", 3, "resid_post", 64, l0=4)),
    ],
)
def test_claims(name, claims):
    found = load(folder_of(name)).claims
    if name == "sae_lens/standard":  # the trainer's own count, of its last steps
        assert found.l0 is not None
        found = found._replace(l0=None)
    assert found == claims


def test_all_files_that_were_read_are_named():
    folder = folder_of("sparsify/expansion")
    assert load(folder).files == (
        folder / "sae.safetensors",
        folder / "cfg.json",
        folder.parent / "config.json",
    )


def test_a_file_is_found_below_a_folder_and_by_itself():
    by_folder = load(FIXTURES, "sae_lens/topk")
    by_file = load(FIXTURES, "sae_lens/topk/sae_weights.safetensors")
    alone = load(FIXTURES / "sae_lens/topk/sae_weights.safetensors", format="sae_lens")
    for other in (by_file, alone):
        torch.testing.assert_close(other.autoencoder(X).sae, by_folder.autoencoder(X).sae)


def test_latents_of_a_token_do_not_depend_on_its_batch():
    for name in ("sae_lens/batch_topk_checkpoint", "dictionary_learning/matryoshka"):
        autoencoder = load(folder_of(name)).autoencoder
        alone = torch.cat([autoencoder(x[None]).sae for x in X])
        torch.testing.assert_close(alone, autoencoder(X).sae)


def test_fits_its_model_and_site():
    published = load(folder_of("sae_lens/topk"))
    check_fits(published, 12, Site(3, "resid_post"))
    weights = str(published.files[0])
    for d_model, site, said in (
        (16, Site(3, "resid_post"), ("d_in=12", "16")),
        (12, Site(2, "resid_post"), ("layer=2", "are 3")),
        (12, Site(3, "mlp_out"), ("hook=mlp_out", "are resid_post")),
    ):
        with pytest.raises(NotAllowed) as error:
            check_fits(published, d_model, site)
        assert all(part in str(error.value) for part in (weights, *said))


def test_says_nothing_of_a_site_that_it_does_not_know():
    published = load(folder_of("sae_lens/topk"))
    check_fits(published._replace(claims=Claims()), 12, Site(1, "attn_out"))
