"""What a dictionary says of texts, against the study's own figures and against its autoencoder."""

import pytest
import torch

import sae_nfm
from sae_nfm.data.corpora import TextCorpus
from sae_nfm.data.tokens import prepare_tokens
from sae_nfm.evaluation.blocks import ScoredBlocks
from sae_nfm.lm.model import LanguageModel
from sae_nfm.lm.site import Site
from sae_nfm.settings.schema import ASSETS
from sae_nfm.settings.values import NotAllowed
from sae_nfm.store.store import Store
from small_models import make_autoencoder

TEXT = "the shape of the array"


@pytest.fixture
def dictionary(project, lm):
    return sae_nfm.load("runs/first", lm=lm)


@pytest.fixture
def scored(project, lm, result):
    """The blocks that the study scored."""
    settings = result["settings"]
    corpus = TextCorpus("text.txt", None, "blank_line", settings["corpus"]["heading"])
    splits = prepare_tokens(Store("artifacts"), corpus, lm.tokenizer, 128, settings["splits"], None)[0]
    return ScoredBlocks(splits.test, settings["eval_tokens"], False, "all", 1, 8)


@pytest.mark.parametrize("condition", ["sae", "sae_linear", "sae_interaction", "sae_nfm"])
def test_kl_is_what_the_study_measured(dictionary, scored, result, condition):
    kl = []
    for numbers in scored:
        tokens = scored.blocks.tokens(numbers.numpy())
        kl.append(dictionary.kl(tokens, condition)[scored.scored(numbers, tokens)])
    kl = torch.cat(kl).double()
    measured = result["conditions"][condition]
    assert len(kl) == measured["n"] == 2000
    assert float(kl.mean()) == pytest.approx(measured["kl"]["mean"], rel=1e-5)
    assert float(kl.max()) == pytest.approx(measured["kl"]["max"], rel=1e-4)


def test_bos_keeps_its_activation_wherever_it_is(dictionary):
    tokens = dictionary.tokens(TEXT)
    two = torch.cat([tokens, tokens])
    kl = dictionary.kl(two)
    assert float(kl[0]) == 0
    at_second = dictionary.lm.prefix(two[None], dictionary.site)
    spliced = dictionary.reconstruct(at_second.activation)
    spliced[:, [0, len(tokens)]] = at_second.activation[:, [0, len(tokens)]]
    found, clean = (
        dictionary.lm.suffix(each, at_second.resid, dictionary.site).log_softmax(-1)
        for each in (spliced, at_second.activation)
    )
    torch.testing.assert_close(kl, (clean.exp() * (clean - found)).sum(-1)[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_replaced_by_itself_changes_nothing_at_all(project, dtype):
    lm = LanguageModel(str(ASSETS / "docs_lm"), dtype)
    assert dictionary_kl(lm, "clean").tolist() == [0.0] * 6
    assert dictionary_kl(lm, "sae")[1:].min() > 0


def dictionary_kl(lm, condition):
    return sae_nfm.load("runs/first", lm=lm).kl(TEXT, condition)


def test_encode_and_reconstruct_are_the_autoencoders(dictionary):
    autoencoder, parts = dictionary.autoencoder, dictionary.parts(TEXT)
    x = dictionary.lm.prefix(dictionary.tokens(TEXT)[None], dictionary.site).activation[0]
    torch.testing.assert_close(parts.x, x, rtol=0, atol=0)
    with torch.no_grad():
        normalised = autoencoder.normalizer(x)
        codes, expected = dictionary.sae.encode(normalised), autoencoder(x)
    assert torch.equal(dictionary.encode(TEXT).dense(64), codes.dense(64))
    of = dictionary.reconstruct
    assert torch.equal(of(x), expected.sae)
    assert torch.equal(of(x, "sae_linear"), expected.sae + expected.linear)
    assert torch.equal(of(x, "sae_interaction"), expected.sae + expected.interaction)
    assert torch.equal(of(x, "sae_nfm"), expected.sae + expected.linear + expected.interaction)
    assert torch.equal(of(x, "clean"), x)
    assert not of(x).requires_grad


def test_blocks_of_tokens_are_as_texts_one_by_one(dictionary):
    tokens = dictionary.tokens(TEXT)
    both = torch.stack([tokens, tokens.flip(0)])
    kl, parts = dictionary.kl(both, "sae_nfm"), dictionary.parts(both)
    assert (kl.shape, parts.x.shape, parts.codes.values.shape) == ((2, 6), (2, 6, 128), (2, 6, 4))
    torch.testing.assert_close(kl[0], dictionary.kl(TEXT, "sae_nfm"), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(kl[1], dictionary.kl(both[1], "sae_nfm"), rtol=1e-4, atol=1e-6)


def test_a_text_is_the_block_that_a_study_has_of_it(dictionary, scored):
    stream = scored.blocks.tokens([0])[0, 1:].tolist()
    end = stream[1:].index(0) + 1  # where the next document begins
    document = dictionary.lm.tokenizer.decode(stream[1:end])
    assert dictionary.tokens(document).tolist() == stream[:end]


def test_what_is_not_allowed_is_named(dictionary, lm):
    with pytest.raises(NotAllowed, match=r"condition=sae_nmf: .*did you mean sae_nfm"):
        dictionary.kl(TEXT, "sae_nmf")
    alone = sae_nfm.Dictionary(make_autoencoder(128, nfm=False), Site(1, "mlp_out"), lm)
    with pytest.raises(NotAllowed, match="condition=sae_nfm: allowed are clean, sae"):
        alone.reconstruct(torch.zeros(128), "sae_nfm")
    assert alone.kl(TEXT).shape == (6,)
    with pytest.raises(NotAllowed, match="text=129 tokens: allowed are up to 128, BOS included"):
        dictionary.kl(torch.zeros(129, dtype=torch.int64))


def test_a_model_that_is_not_the_dictionarys_is_named(lm):
    def model_of(d_in=128, layer=1, model=lm):
        return sae_nfm.Dictionary(make_autoencoder(d_in), Site(layer, "resid_post"), model).lm

    assert model_of() is lm
    with pytest.raises(NotAllowed, match=r"lm=.*docs_lm: its width is 128; allowed are models of width 16"):
        model_of(d_in=16)
    with pytest.raises(NotAllowed, match="layer=6: allowed are 0 to 5"):
        model_of(layer=6)
    with pytest.raises(NotAllowed, match="lm=/models/gone: no such folder"):
        model_of(model="/models/gone")
