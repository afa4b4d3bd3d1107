"""What the tests share: the embedded LM, and a small corpus cut into blocks."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads that wait for each other cost more than they bring

import numpy as np
import pytest
import torch

from sae_nfm.data.corpora import TextCorpus
from sae_nfm.data.tokens import prepare_tokens
from sae_nfm.lm.model import LanguageModel
from sae_nfm.settings.schema import ASSETS
from sae_nfm.store.store import Store

torch.set_num_threads(1)

CONTEXT = 16
PROSE = (
    "the a of to and returns tensor array shape value index dtype layer path file module function class "
    "given whether default None True if not is are with for from by each one two number string list dict "
    "key name type error raised when input output batch model sample mean axis along optional"
)


def pytest_configure(config):
    """Leave out warnings that Lightning gives on any machine or on every resumed run."""
    for warning in ("The `srun` command", ".*treespec, LeafSpec"):
        config.addinivalue_line("filterwarnings", f"ignore:{warning}")


@pytest.fixture(scope="session")
def lm():
    return LanguageModel(str(ASSETS / "docs_lm"), "float32")


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory):
    """300 documents of 5 to 60 words."""
    generator, words = np.random.default_rng(0), PROSE.split()
    texts = [" ".join(generator.choice(words, size=generator.integers(5, 60))) for _ in range(300)]
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
