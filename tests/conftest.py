"""What the tests share: the embedded LM, a small corpus cut into blocks, and dictionaries of no training."""

import numpy as np
import pytest
import torch

from sae_nfm.data.corpora import TextCorpus
from sae_nfm.data.tokens import prepare_tokens
from sae_nfm.lm import ASSETS, LanguageModel
from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.nfm import NeuralFactorizationMachine
from sae_nfm.models.normalizer import Normalizer
from sae_nfm.models.sae import TopKSAE
from sae_nfm.store import Store

CONTEXT = 16
WORDS = (
    "the a of to and returns tensor array shape value index dtype layer path file module function class "
    "given whether default None True if not is are with for from by each one two number string list dict "
    "key name type error raised when input output batch model sample mean axis along optional"
).split()


@pytest.fixture(scope="session")
def lm():
    return LanguageModel(str(ASSETS / "docs_lm"), "float32")


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory):
    """300 documents of 5 to 60 words."""
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(WORDS, size=generator.integers(5, 60))) for _ in range(300)]
    path = tmp_path_factory.mktemp("corpus") / "documents.txt"
    path.write_text("\n\n".join(texts))
    return path


@pytest.fixture(scope="session")
def splits(lm, corpus_file, tmp_path_factory):
    """Blocks of `CONTEXT` tokens of the corpus, a fifth of its documents for validation and for test."""
    corpus = TextCorpus(str(corpus_file), separator=None, document="blank_line", heading="")
    store = Store(tmp_path_factory.mktemp("artifacts"))
    fractions = {"validation": 0.2, "test": 0.2}
    return prepare_tokens(store, corpus, lm.tokenizer, CONTEXT, fractions, max_tokens=None)[0]


@pytest.fixture
def untrained(lm):
    """Makes an autoencoder of random weights, none of them 0, with a normaliser that shifts and scales."""

    def make(d_sae=64, k=4, nfm=True, d_in=lm.d_model, seed=0):
        torch.manual_seed(seed)
        normalizer = Normalizer(d_in)
        normalizer.mean.normal_(std=0.1)
        normalizer.scale.uniform_(0.5, 2)
        sae = TopKSAE(d_in, d_sae, k, "zero")
        for bias in (sae.b_enc, sae.b_dec):
            torch.nn.init.normal_(bias, std=0.1)
        head = None
        if nfm:
            head = NeuralFactorizationMachine(
                d_sae, d_in, order=2, d_embed=8, linear=True, interaction=True, mlp=True, dropout=0.15
            )
            for parameter in (head.W_lin, head.b):
                torch.nn.init.normal_(parameter, std=0.1)
        return Autoencoder(normalizer, sae, head).eval()

    return make
