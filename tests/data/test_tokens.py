"""The layout of blocks against brute force, splits by document, and the reuse of what is in the store."""

import pickle
from importlib.resources import files
from itertools import pairwise

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sae_nfm.data import tokens as tokens_module
from sae_nfm.data.corpora import Document, TextCorpus
from sae_nfm.data.tokens import prepare_tokens, text_tokens
from sae_nfm.store.store import Store

FRACTIONS = {"validation": 0.2, "test": 0.3}
WORDS = ["the", "of", "tensor", "array", "shape", "returns", "value", "index", "dtype", "layer", "path"]


class Documents:
    """A corpus in memory that counts how often it is read."""

    def __init__(self, documents):
        self.found = documents
        self.reads = 0

    def documents(self):
        self.reads += 1
        return iter(self.found)

    def signature(self):
        return {"corpus": [list(document) for document in self.found]}


def sentences(count, seed=0):
    generator = np.random.default_rng(seed)
    for number in range(count):
        words = generator.choice(WORDS, size=generator.integers(1, 30))
        yield Document(f"{number} {' '.join(words)}", key=str(number))


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(str(files("sae_nfm") / "assets" / "docs_lm"))


@pytest.fixture
def corpus():
    return Documents(list(sentences(200)))


@pytest.fixture
def prepare(tmp_path, tokenizer):
    def run(corpus, context=16, splits=FRACTIONS, max_tokens=None, tokenizer=tokenizer, skipped=0):
        how = (tokenizer, context, splits, max_tokens, skipped)
        return prepare_tokens(Store(tmp_path), corpus, *how)[0]

    return run


def stream_of(blocks):
    """Everything of a split but what fills no block."""
    return blocks.tokens(range(len(blocks)))[:, 1:].flatten().tolist()


def documents_of(blocks, bos_id):
    """The token ids of each whole document, the unfinished last one left out."""
    stream = stream_of(blocks)
    starts = [place for place, token in enumerate(stream) if token == bos_id]
    return [tuple(stream[a + 1 : b]) for a, b in pairwise(starts)]


def test_blocks_and_documents_agree_with_brute_force(prepare, corpus, tokenizer):
    context, seen = 16, set()
    for blocks in prepare(corpus, context):
        stream, owner = [], []
        encoded = {tuple(tokenizer.encode(d.text, add_special_tokens=False)): d.text for d in corpus.found}
        for number, ids in enumerate(documents_of(blocks, blocks.bos_id)):
            seen.add(encoded[ids])  # raises where a document is not whole
            stream += [blocks.bos_id, *ids]
            owner += [number] * (len(ids) + 1)
        chosen = np.array([3, 0, len(stream) // (context - 1) - 1])
        tokens, documents = blocks.tokens(chosen), blocks.documents(chosen)
        assert tokens.dtype == documents.dtype == torch.int64
        for row, block in enumerate(chosen):
            part = slice(block * (context - 1), (block + 1) * (context - 1))
            assert tokens[row].tolist() == [blocks.bos_id, *stream[part]]
            assert documents[row].tolist() == [owner[part][0], *owner[part]]
        assert len(blocks) == blocks.num_tokens // (context - 1)
    assert len(seen) > 190


def test_every_document_is_in_the_split_that_its_key_decides(prepare, corpus):
    splits = prepare(corpus)
    kept = [set(documents_of(blocks, blocks.bos_id)) for blocks in splits]
    assert not kept[0] & kept[1] | kept[0] & kept[2] | kept[1] & kept[2]
    assert sum(blocks.num_documents for blocks in splits) == len(corpus.found)
    assert 25 < splits.validation.num_documents < 55
    assert 40 < splits.test.num_documents < 80


def test_a_document_stays_in_its_split_when_the_corpus_changes(prepare, corpus):
    before = prepare(corpus)
    after = prepare(Documents([*sentences(20, seed=1), *corpus.found[::-1]]))
    for old, new in zip(before, after, strict=True):
        missing = set(documents_of(old, old.bos_id)) - set(documents_of(new, new.bos_id))
        assert len(missing) <= 1  # what fills no block


def test_duplicates_never_straddle_splits(prepare, tmp_path):
    once = [document.text for document in sentences(60)]
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(once * 3))
    splits = prepare(TextCorpus(str(path), None, "blank_line", "x"))
    assert all(blocks.num_documents % 3 == 0 for blocks in splits)
    assert sum(blocks.num_documents for blocks in splits) == 180


@pytest.mark.parametrize("skipped", [0, 1, 5])
def test_what_is_neither_bos_nor_skipped_counts(prepare, corpus, monkeypatch, skipped):
    blocks = prepare(corpus, skipped=skipped).train
    tokens = blocks.tokens(range(len(blocks)))
    counted = blocks.counted(tokens)
    assert not counted[:, : 1 + skipped].any()
    assert torch.equal(counted[:, 1 + skipped :], tokens[:, 1 + skipped :] != blocks.bos_id)
    expected = counted.sum(1).numpy()
    monkeypatch.setattr(tokens_module, "_BATCH", 50)
    np.testing.assert_array_equal(blocks.num_scored(), expected)
    assert blocks.num_scored() is blocks.num_scored()


def test_a_copy_in_another_process_reads_the_same_files(prepare, corpus):
    blocks = prepare(corpus).test
    pickled = pickle.dumps(blocks)
    assert len(pickled) < 1000
    assert torch.equal(pickle.loads(pickled).tokens([1, 2]), blocks.tokens([1, 2]))


def test_batches_make_no_difference(prepare, corpus, tmp_path, tokenizer, monkeypatch):
    expected = [stream_of(blocks) for blocks in prepare(corpus)]
    monkeypatch.setattr(tokens_module, "_BATCH", 100)
    again, _ = prepare_tokens(Store(tmp_path / "other"), corpus, tokenizer, 16, FRACTIONS, None)
    assert [stream_of(blocks) for blocks in again] == expected


def test_tokens_are_as_narrow_as_the_vocabulary_allows(prepare, corpus, tmp_path, tokenizer, monkeypatch):
    prepare(corpus)
    monkeypatch.setattr(type(tokenizer), "__len__", lambda self: 1 << 16)
    prepare_tokens(Store(tmp_path / "wide"), corpus, tokenizer, 16, FRACTIONS, None)
    found = {np.load(path).dtype for path in tmp_path.glob("tokens/*/*.tokens.npy")}
    wide = {np.load(path).dtype for path in tmp_path.glob("wide/tokens/*/*.tokens.npy")}
    assert (found, wide) == ({np.dtype(np.uint16)}, {np.dtype(np.uint32)})


def test_max_tokens_cuts_the_corpus_there(prepare, corpus):
    whole, cut = prepare(corpus), prepare(corpus, max_tokens=1000)
    assert sum(blocks.num_tokens for blocks in cut) == 1000
    for long, short in zip(whole, cut, strict=True):
        assert stream_of(long)[: len(stream_of(short))] == stream_of(short)
    beyond = prepare(corpus, max_tokens=10**6)
    assert [blocks.num_tokens for blocks in beyond] == [blocks.num_tokens for blocks in whole]


def test_a_second_call_reads_the_store_whatever_the_context(tmp_path, corpus, tokenizer):
    store = Store(tmp_path)
    first, spec = prepare_tokens(store, corpus, tokenizer, 16, FRACTIONS, None)
    tokenizer("x", truncation=True, max_length=8)  # a setting that stays in the tokenizer
    second, same = prepare_tokens(store, corpus, tokenizer, 32, FRACTIONS, None)
    assert corpus.reads == 1
    assert spec == same
    assert stream_of(second.test)[:100] == stream_of(first.test)[:100]
    prepare_tokens(store, corpus, tokenizer, 16, {**FRACTIONS, "test": 0.1}, None)
    assert corpus.reads == 2


def test_a_long_document_raises_no_warning(prepare, tokenizer, caplog, recwarn):
    long = [Document("word " * 500, key=str(number)) for number in range(20)]
    assert len(prepare(Documents(long)).train) > 0
    assert "longer than" not in caplog.text
    assert not [warning for warning in recwarn if "longer than" in str(warning.message)]


def test_eos_stands_in_for_a_missing_bos(prepare, corpus):
    tokenizer = AutoTokenizer.from_pretrained(str(files("sae_nfm") / "assets" / "docs_lm"))
    tokenizer.bos_token = None
    assert prepare(corpus, tokenizer=tokenizer).train.bos_id == tokenizer.eos_token_id
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match=r"lm\.path=.* neither a BOS nor an EOS token; allowed"):
        prepare(corpus, tokenizer=tokenizer)


def test_an_empty_corpus_leaves_nothing_that_is_taken_for_whole(prepare, tmp_path):
    for _ in range(2):
        with pytest.raises(ValueError, match="corpus=Documents: it holds no document; allowed"):
            prepare(Documents([]))
    assert not list(tmp_path.rglob("manifest.json"))


def test_a_split_without_a_block_is_named(prepare, corpus):
    match = (
        r"context=2000: split validation holds \d+ tokens \(\d+ documents\),\n.*\n.*max_tokens=None .*1999"
    )
    with pytest.raises(ValueError, match=match):
        prepare(corpus, context=2000, splits={"validation": 0.1, "test": 0.1})
    with pytest.raises(ValueError, match="split validation holds 0 tokens"):
        prepare(Documents(corpus.found[:1]))


@pytest.mark.parametrize(
    "splits", [{}, {"test": 0.1}, {"validation": 0.5, "test": 0.5}, {"validation": 0, "test": 1}]
)
def test_splits_that_are_not_allowed(prepare, corpus, splits):
    with pytest.raises(ValueError, match=r"splits=.*allowed are validation and test"):
        prepare(corpus, splits=splits)
    with pytest.raises(ValueError, match="context=1: allowed are whole numbers from 2"):
        prepare(corpus, context=1)


def bpe_over_words():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return trained(tokenizer, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))


def bpe_over_the_whole_text():
    """As Llama's: spaces are characters like others, and nothing cuts the text before the merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    return trained(tokenizer, trainers.BpeTrainer(vocab_size=400))


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" ", "▁")])
    return trained(
        tokenizer, trainers.UnigramTrainer(vocab_size=200, unk_token="<unk>", special_tokens=["<unk>"])
    )


def wordpiece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return trained(tokenizer, trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]"]))


def trained(tokenizer, trainer):
    tokenizer.train_from_iterator([long_text(1, 20_000)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=None)


def long_text(seed, num_chars):
    """Words, runs of one letter, digits, spaces, line breaks, accents and ideographs."""
    generator = np.random.default_rng(seed)
    parts, size = [], 0
    while size < num_chars:
        kind = generator.integers(6)
        count = int(generator.integers(1, 40))
        part = {0: "a" * count, 1: " " * count, 2: "\n\n", 3: "é文ﬁ" * (count // 8), 4: str(count) * 3}.get(
            kind
        )
        parts.append(" ".join(generator.choice(WORDS, size=5)) if part is None else part)
        size += len(parts[-1])
    return "".join(parts)[:num_chars]


@pytest.mark.parametrize("make", [bpe_over_words, bpe_over_the_whole_text, unigram, wordpiece])
def test_the_start_of_a_long_text_has_the_tokens_of_the_whole(make, monkeypatch):
    monkeypatch.setattr(tokens_module, "_MARGIN", 200)
    monkeypatch.setattr(tokens_module, "_CHARS_PER_TOKEN", 1)  # too few: it has to try again
    tokenizer, text = make(), long_text(2, 20_000)
    whole = tokens_module._encode([text], tokenizer)["input_ids"][0]
    for count in (1, 2, 3, 10, 57, 100, 333, 1000, len(whole) - 1, len(whole), 10**6):
        found = tokens_module._first_ids(text, tokenizer, count)
        assert found[:count] == whole[:count]
        assert len(found) <= max(6 * count + 800, len(whole))


def test_of_a_long_document_little_more_is_tokenised_than_is_needed(tmp_path, tokenizer, monkeypatch):
    read, encode = [], tokens_module._encode

    def watched(texts, *args, **settings):
        read.append(sum(map(len, texts)))
        return encode(texts, *args, **settings)

    monkeypatch.setattr(tokens_module, "_encode", watched)
    long = Document(long_text(0, 1_500_000), key="long")
    corpus = Documents([*sentences(100), long, *sentences(9, seed=1)])
    splits, _ = prepare_tokens(Store(tmp_path / "start"), corpus, tokenizer, 16, FRACTIONS, 20_000)
    assert sum(read) < 400_000
    monkeypatch.setattr(tokens_module, "_MARGIN", len(long.text))
    whole, _ = prepare_tokens(Store(tmp_path / "whole"), corpus, tokenizer, 16, FRACTIONS, 20_000)
    assert sum(read) > len(long.text)
    assert [stream_of(blocks) for blocks in splits] == [stream_of(blocks) for blocks in whole]
    assert sum(blocks.num_tokens for blocks in splits) == 20_000


def test_a_text_that_spells_the_bos_token_is_text_and_is_told(prepare, tokenizer, caplog):
    words = "one two three four five six seven eight nine ten"
    spelt = [Document(f"{words} <|endoftext|> {words} {n}", key=str(n)) for n in range(60)]
    splits = prepare(Documents(spelt))
    blocks = splits.train
    stream = blocks.tokens(range(len(blocks)))[:, 1:].flatten()
    assert int((stream == blocks.bos_id).sum()) <= blocks.num_documents
    assert "<|endoftext|>" in tokenizer.decode(stream[stream != blocks.bos_id])
    (warning,) = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert "'corpus.separator=\"<|endoftext|>\"'" in warning


def test_a_texts_own_tokens_have_one_bos_whatever_the_tokenizer_adds(tokenizer):
    adds_bos = AutoTokenizer.from_pretrained(str(files("sae_nfm") / "assets" / "docs_lm"))
    adds_bos.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.bos_token_id)]
    )
    assert adds_bos("an array")["input_ids"][0] == tokenizer.bos_token_id
    for text in ("an array", "an <|endoftext|> array", ""):
        expected = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert text_tokens(text, adds_bos).tolist() == [tokenizer.bos_token_id, *expected]
