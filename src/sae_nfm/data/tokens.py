"""From documents to blocks of tokens: tokenised once, kept in the store, split by document."""

import hashlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Bool, Int, Int64
from numpy.typing import DTypeLike
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sae_nfm import progress
from sae_nfm.data.corpora import Corpus, Document
from sae_nfm.settings.values import NotAllowed
from sae_nfm.store.store import Store, fingerprint

log = logging.getLogger(__name__)
SPLITS = ("train", "validation", "test")
_BATCH = 1 << 20  # characters tokenised, and tokens counted, at a time
_CHARS_PER_TOKEN = 8  # of a text whose start alone is tokenised; most have fewer
_MARGIN = 1 << 16  # characters after which a token does not depend on what follows


class TokenBlocks:
    """Blocks of `context` tokens of one split, read from disk as they are asked for.

    Every document lies in the split's stream as BOS and its tokens. Block i is one more BOS and
    `stream[i * (context - 1) : (i + 1) * (context - 1)]`; the last tokens that fill no block are left out.

    Attributes:
        context: tokens of a block, the BOS in front included.
        bos_id: id of the BOS token.
        skipped: positions behind a block's BOS that do not count.
        source: the folder, the split, the context and the skipped ones, which no other blocks have.
        num_documents: documents of the split.
        num_tokens: tokens of the split, each document's BOS included.
    """

    def __init__(self, folder: Path, split: str, context: int, skipped: int, bos_id: int) -> None:
        self.context = context
        self.bos_id = bos_id
        self.skipped = skipped
        self.source = (folder, split, context, skipped)
        self._stream = np.load(folder / f"{split}.tokens.npy", mmap_mode="r")
        self._starts = np.load(folder / f"{split}.documents.npy", mmap_mode="r")
        self._num_scored: Int64[np.ndarray, " block"] | None = None
        self.num_documents = len(self._starts)
        self.num_tokens = len(self._stream)

    def __len__(self) -> int:
        return self.num_tokens // (self.context - 1)

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy in another process maps the files again, rather than carrying the tokens with it.
        return TokenBlocks, (*self.source, self.bos_id)

    def tokens(self, blocks: Sequence[int] | Int[np.ndarray, " block"]) -> Int64[Tensor, "block context"]:
        """Token ids of `blocks`, BOS first."""
        ids = torch.from_numpy(self._stream[self._positions(blocks)].astype(np.int64))
        return torch.nn.functional.pad(ids, (1, 0), value=self.bos_id)

    def order(self, seed: int, round_number: int) -> Int64[np.ndarray, " block"]:
        """All blocks in the order in which a round through them deals them."""
        return np.random.default_rng((seed, round_number)).permutation(len(self))

    def documents(self, blocks: Sequence[int] | Int[np.ndarray, " block"]) -> Int64[Tensor, "block context"]:
        """For each token of `blocks` the number of its document, `0 … num_documents - 1`.

        The BOS in front belongs to the document of the token after it.
        """
        numbers = np.searchsorted(self._starts, self._positions(blocks), side="right") - 1
        return torch.from_numpy(numbers[:, [0, *range(numbers.shape[1])]])

    def counted(
        self, tokens: Int64[Tensor, "block pos"], with_bos: bool = False
    ) -> Bool[Tensor, "block pos"]:
        """Which positions of blocks count: all that are not skipped, and not BOS unless that counts too."""
        counted = (tokens != self.bos_id) | with_bos
        counted[:, 1 : 1 + self.skipped] = False
        return counted

    def num_scored(self) -> Int64[np.ndarray, " block"]:
        """Tokens of each block that count."""
        if self._num_scored is None:
            width = self.context - 1
            rows = max(1, _BATCH // width)
            counts = [np.zeros(0, np.int64)]
            for first in range(0, len(self), rows):
                last = min(first + rows, len(self))
                part = self._stream[first * width : last * width].reshape(-1, width)[:, self.skipped :]
                counts.append((part != self.bos_id).sum(axis=1, dtype=np.int64))
            self._num_scored = np.concatenate(counts)
        return self._num_scored

    def _positions(
        self, blocks: Sequence[int] | Int[np.ndarray, " block"]
    ) -> Int[np.ndarray, "block scored"]:
        width = self.context - 1
        return np.asarray(blocks, np.int64)[:, None] * width + np.arange(width)


class TokenSplits(NamedTuple):
    """The blocks of each split; no document is in two of them.

    Attributes:
        train: what dictionaries are trained on.
        validation: what training is watched on.
        test: what is evaluated.
    """

    train: TokenBlocks
    validation: TokenBlocks
    test: TokenBlocks


def prepare_tokens(
    store: Store,
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerFast,
    context: int,
    splits: Mapping[str, float],
    max_tokens: int | None,
    skipped: int = 0,
) -> tuple[TokenSplits, dict[str, Any]]:
    """Tokenise `corpus`, or find it tokenised in `store`, and return its blocks.

    Args:
        store: where the tokens are kept; every `context` reads the same ones.
        corpus: the documents.
        tokenizer: a fast tokenizer; its BOS or else EOS token opens each document.
        context: tokens of a block.
        splits: `validation` and `test`, the fractions of the documents that go there.
        max_tokens: stop the corpus after so many tokens, all splits together; `None` takes all of it.
        skipped: positions behind a block's BOS that do not count.

    Returns:
        The splits, and the spec that determines their documents and tokens.

    Raises:
        NotAllowed: a setting is not allowed, or a split has too little text for a block.
    """
    _check(context, splits, skipped)
    spec = {
        "corpus": corpus.signature(),
        "tokenizer": _tokenizer_signature(tokenizer),
        "bos_id": bos_of(tokenizer),
        "splits": {split: float(fraction) for split, fraction in splits.items()},
        "max_tokens": max_tokens,
    }
    folder = store.fetch("tokens", spec, lambda folder: _write(folder, corpus, tokenizer, splits, max_tokens))
    blocks = TokenSplits(*(TokenBlocks(folder, split, context, skipped, spec["bos_id"]) for split in SPLITS))
    for split, found in zip(SPLITS, blocks, strict=True):
        if len(found) == 0:
            raise NotAllowed(
                "context",
                context,
                f"a context, a corpus, splits={dict(splits)} and\n"
                f"max_tokens={max_tokens} that leave every split {context - 1} tokens or more",
                f"split {split} holds {found.num_tokens} tokens ({found.num_documents} documents),\n"
                "too few for one block",
            )
    return blocks, spec


def _check(context: int, splits: Mapping[str, float], skipped: int) -> None:
    if context < 2:
        raise NotAllowed("context", context, "whole numbers from 2, for one token is BOS")
    if not 0 <= skipped < context - 1:
        raise NotAllowed("skip_positions", skipped, f"0 to {context - 2}, of context={context}")
    fractions = list(splits.values())
    if set(splits) != set(SPLITS[1:]) or min(fractions) <= 0 or sum(fractions) >= 1:
        allowed = "validation and test, fractions above 0 whose sum is below 1"
        raise NotAllowed("splits", dict(splits), allowed)


def text_tokens(text: str, tokenizer: PreTrainedTokenizerFast) -> Int64[Tensor, " pos"]:
    """A text as a block of its own: BOS, and its tokens, among which no special one is, whatever it spells.

    Raises:
        NotAllowed: the tokenizer has no token that can be BOS.
    """
    return torch.tensor([bos_of(tokenizer), *_encode([text], tokenizer)["input_ids"][0]])


def bos_of(tokenizer: PreTrainedTokenizerFast) -> int:
    """The id of the token that opens every block and every document: BOS, or else EOS.

    Raises:
        NotAllowed: the tokenizer has neither.
    """
    for token_id in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if isinstance(token_id, int):
            return token_id
    raise NotAllowed(
        "lm.path",
        tokenizer.name_or_path,
        "language models whose tokenizer names one of them",
        "its tokenizer has neither a BOS nor an EOS token",
    )


def _tokenizer_signature(tokenizer: PreTrainedTokenizerFast) -> str:
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content.update(truncation=None, padding=None)  # these two follow the last call
    return fingerprint(content)


def _write(
    folder: Path,
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerFast,
    splits: Mapping[str, float],
    max_tokens: int | None,
) -> None:
    bos_id = bos_of(tokenizer)
    dtype = np.uint16 if len(tokenizer) < 1 << 16 else np.uint32
    written = 0
    with ExitStack() as stack:
        streams, starts = (
            {
                split: stack.enter_context(_GrowingArray(folder / f"{split}.{name}.npy", kind))
                for split in SPLITS
            }
            for name, kind in (("tokens", dtype), ("documents", np.int64))
        )
        documents = corpus.documents()
        line = stack.enter_context(progress.line("tokenising", max_tokens))
        for document, ids in _tokenised(documents, tokenizer, bos_id, max_tokens):
            split = _split_of(document.key, splits)
            starts[split].append([streams[split].size])
            streams[split].append(ids)
            written += len(ids)
            line.at(written)
    if written == 0:
        raise NotAllowed(
            "corpus", type(corpus).__name__, "corpora with some text in them", "it holds no document"
        )


def _tokenised(
    documents: Iterator[Document], tokenizer: PreTrainedTokenizerFast, bos_id: int, max_tokens: int | None
) -> Iterator[tuple[Document, list[int]]]:
    """Documents with their tokens, BOS first, until those are `max_tokens` in all; the last may be cut."""
    left = sys.maxsize if max_tokens is None else max_tokens
    told = False
    for batch in _batches(documents):
        told = told or _tell_of_bos(batch, tokenizer, bos_id)
        if len(batch) == 1:
            tokenised = [_first_ids(batch[0].text, tokenizer, left)]
        else:
            tokenised = _encode([document.text for document in batch], tokenizer)["input_ids"]
        for document, ids in zip(batch, tokenised, strict=True):
            ids = [bos_id, *ids][:left]
            yield document, ids
            left -= len(ids)
            if left == 0:
                return


def _first_ids(text: str, tokenizer: PreTrainedTokenizerFast, num_tokens: int) -> list[int]:
    """The first tokens of a text, `num_tokens` or a few more, without reading much more of it.

    A start of the text is tokenised, twice as long each time, until the tokens asked for end `_MARGIN`
    characters before it does: where a text is cut changes tokens near the cut alone. That holds for words
    that are tokenised one by one, and for BPE and unigram models over a whole text, whose choices depend on
    what follows no further than a chain of overlapping tokens goes, each preferred to the one before.
    """
    num_chars = _MARGIN + _CHARS_PER_TOKEN * num_tokens
    while num_chars < len(text):
        start = _encode([text[:num_chars]], tokenizer, return_offsets_mapping=True)
        ends = [end for _, end in start["offset_mapping"][0][:num_tokens]]
        if len(ends) == num_tokens and ends[-1] + _MARGIN <= num_chars:
            return start["input_ids"][0]
        num_chars *= 2
    return _encode([text], tokenizer)["input_ids"][0]


def _encode(texts: list[str], tokenizer: PreTrainedTokenizerFast, **asked: Any) -> Any:
    return tokenizer(
        texts,
        add_special_tokens=False,
        split_special_tokens=True,  # a text that spells the BOS token is text
        return_attention_mask=False,
        verbose=False,  # a document longer than the model's context is no reason to warn
        **asked,
    )


def _tell_of_bos(batch: list[Document], tokenizer: PreTrainedTokenizerFast, bos_id: int) -> bool:
    """Warn where a document spells the BOS token, which may have been meant to separate documents."""
    bos = str(tokenizer.convert_ids_to_tokens(bos_id))
    found = any(bos in document.text for document in batch)
    if found:
        log.warning(
            "corpus: a document holds %s, which is read as text and not as a token; if it separates "
            "documents, 'corpus.separator=\"%s\"' says so",
            bos,
            bos,
        )
    return found


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """Documents of about `_BATCH` characters in all; a longer one comes alone."""
    batch: list[Document] = []
    num_chars = 0
    for document in documents:
        if len(document.text) > _BATCH and batch:
            yield batch
            batch, num_chars = [], 0
        batch.append(document)
        num_chars += len(document.text)
        if num_chars >= _BATCH:
            yield batch
            batch, num_chars = [], 0
    if batch:
        yield batch


def _split_of(key: str, splits: Mapping[str, float]) -> str:
    """A split of which the key alone decides, so that it stays when a corpus grows."""
    place = int.from_bytes(hashlib.sha1(key.encode()).digest()[:8], "big") / 2**64
    for split in ("validation", "test"):
        if place < splits[split]:
            return split
        place -= splits[split]
    return "train"


class _GrowingArray:
    """A one-dimensional `.npy` file, written as it grows, so that it never has to fit in memory."""

    def __init__(self, path: Path, dtype: DTypeLike) -> None:
        self.size = 0
        self._dtype = np.dtype(dtype)
        self._file = path.open("wb")
        self._write_header()

    def append(self, values: Sequence[int]) -> None:
        self._file.write(np.asarray(values, self._dtype).tobytes())
        self.size += len(values)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.seek(0)
        self._write_header()  # as long as the first one: NumPy leaves room for a size that grows
        self._file.close()

    def _write_header(self) -> None:
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self.size,)}
        np.lib.format.write_array_header_1_0(self._file, header)
