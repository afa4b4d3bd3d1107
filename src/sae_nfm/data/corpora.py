"""Where text comes from: a corpus is an iterator of documents and a signature of what determines them."""

import glob
import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol, TextIO

import datasets
from datasets.exceptions import DatasetsError
from pydantic import Field

from sae_nfm.settings.values import NotAllowed, checked
from sae_nfm.store.hashes import file_hash

_CHUNK = 1 << 20  # characters read at a time

log = logging.getLogger(__name__)


class Document(NamedTuple):
    """A text and the key whose hash decides its split.

    Attributes:
        text: the document, without blank ends.
        key: where equal keys go to the same split.
    """

    text: str
    key: str


class Corpus(Protocol):
    """A source of documents."""

    def documents(self) -> Iterator[Document]:
        """Yield every document, in an order that does not change.

        Raises:
            NotAllowed: the corpus cannot be read or is empty.
        """
        ...

    def signature(self) -> dict[str, Any]:
        """Everything that determines the documents, as JSON; where they lie is no part of it."""
        ...


@checked
class TextCorpus:
    """Documents of UTF-8 text files, keyed by their own text, so that duplicates share a split.

    Args:
        path: a file, a glob pattern or a list of them; relative to the working directory.
        separator: the string between two documents; where given, `document` is not asked.
        document: `blank_line`: blank lines separate documents; `heading`: a line that matches `heading`
            opens one; `file`: every file is one.
        heading: regular expression of a line that opens a document.

    Raises:
        NotAllowed: a setting is not allowed or no file matches `path`.
    """

    def __init__(
        self,
        path: str | Sequence[str],
        separator: Annotated[str, Field(min_length=1, description="text that separates documents")] | None,
        document: Literal["blank_line", "heading", "file"],
        heading: str,
    ) -> None:
        self.path = path
        self.separator = separator
        self.document = document
        self.heading = _compiled(heading)
        self.files = _matching_files(path)

    def documents(self) -> Iterator[Document]:
        """Yield the documents file by file, the files in the order of their paths.

        Raises:
            NotAllowed: a file is not UTF-8, there is no document, or no file holds the separator.
        """
        if self.separator is not None and not any(map(self._has_separator, self.files)):
            raise NotAllowed(
                "corpus.separator",
                self.separator,
                "text that is in one of them, and, where each file is a document, corpus.separator=null with "
                "corpus.document=file",
                f"it is nowhere in the {len(self.files)} files of corpus.path={self.path}",
            )
        return at_least_one(self._documents(), "corpus.path", self.path)

    def signature(self) -> dict[str, Any]:
        """Names and signatures of the files, and the rule that cuts them."""
        cut: dict[str, Any] = {"document": self.document}
        if self.separator is not None:
            cut = {"separator": self.separator}
        elif self.document == "heading":
            cut["heading"] = self.heading.pattern
        return {"corpus": "text", "files": [[file.name, file_hash(file)] for file in self.files], **cut}

    def _documents(self) -> Iterator[Document]:
        for path in self.files:
            with self._opened(path) as file:
                yield from _keyed_by_text(self._texts(file))

    def _has_separator(self, path: Path) -> bool:
        assert self.separator is not None
        with self._opened(path) as file:
            return _holds(file, self.separator)

    @contextmanager
    def _opened(self, path: Path) -> Iterator[TextIO]:
        with path.open(encoding="utf-8-sig") as file:
            try:
                yield file
            except UnicodeDecodeError as error:
                because = f"{path} is not UTF-8 text ({error.reason})"
                raise NotAllowed("corpus.path", self.path, "text files in UTF-8", because) from None

    def _texts(self, file: TextIO) -> Iterable[str]:
        if self.separator is not None:
            return _split_at(file, self.separator)
        if self.document == "blank_line":
            return _split_before(file, lambda line: not line.strip())
        if self.document == "heading":
            return _split_before(file, lambda line: self.heading.match(line) is not None)
        return [file.read()]


@checked
class HuggingFaceCorpus:
    """Documents of a dataset that `datasets` can load, from the hub or from local files.

    Args:
        path: a dataset of the hub, a local folder, or a format (`json`, `parquet`, …) with `data_files`.
        name: the dataset's configuration.
        split: its split; ours are drawn from it.
        text_column: the column that holds the text.
        revision: branch, tag or commit of a hub dataset.
        streaming: read over the network as it goes, instead of downloading everything first.
        heading: where rows are lines (WikiText), regular expression of a row that opens a document;
            `None`: every row is a document.
        data_files: glob patterns within the dataset, or local files where `path` is a format.
    """

    def __init__(
        self,
        path: str,
        name: str | None,
        split: str,
        text_column: str,
        revision: str | None,
        streaming: bool,
        heading: str | None,
        data_files: str | Sequence[str] | None,
    ) -> None:
        self.path = path
        self.name = name
        self.split = split
        self.text_column = text_column
        self.revision = revision
        self.streaming = streaming
        self.heading = None if heading is None else _compiled(heading)
        self.data_files = [data_files] if isinstance(data_files, str) else data_files and list(data_files)

    def documents(self) -> Iterator[Document]:
        """Yield the documents in the order of the dataset."""
        return at_least_one(_keyed_by_text(self._texts()), "corpus.path", self.path)

    def signature(self) -> dict[str, Any]:
        """What names a hub dataset; for local files, their names and signatures."""
        files = self._local_files()
        return {
            "corpus": "huggingface",
            "path": "local folder" if Path(self.path).is_dir() else self.path,
            "name": self.name,
            "split": self.split,
            "text_column": self.text_column,
            "revision": self.revision,
            "heading": self.heading and self.heading.pattern,
            "data_files": [[file.name, file_hash(file)] for file in files] or self.data_files,
        }

    def _local_files(self) -> list[Path]:
        folder = Path(self.path)
        if not folder.is_dir():
            return [file for pattern in self.data_files or [] for file in _glob(pattern)]
        patterns = self.data_files or ["**/*"]
        return [file for pattern in patterns for file in _glob(str(folder / pattern))]

    def _texts(self) -> Iterable[str]:
        rows = self._rows()
        if self.heading is None:
            return rows
        opens = self.heading.match
        return _split_before((row.rstrip("\n") + "\n" for row in rows), lambda row: opens(row) is not None)

    def _rows(self) -> Iterator[str]:
        for row in self._load():
            if self.text_column not in row:
                because = f"it is no column of {self.path}"
                raise NotAllowed("corpus.text_column", self.text_column, list(row), because)
            text = row[self.text_column]
            if not isinstance(text, str | None):
                of_text = [name for name, value in row.items() if isinstance(value, str)]
                because = f"its values are of type {type(text).__name__}"
                allowed = of_text or "columns of text, of which it has none"
                raise NotAllowed("corpus.text_column", self.text_column, allowed, because)
            yield text or ""

    def _load(self) -> Iterable[Any]:
        try:
            return datasets.load_dataset(
                self.path,
                self.name,
                split=self.split,
                revision=self.revision,
                streaming=self.streaming,
                data_files=self.data_files,
            )
        except (OSError, ValueError, RuntimeError, DatasetsError) as error:  # a RuntimeError for a script
            reason = str(error).partition("\n")[0]
            raise NotAllowed(
                "corpus.path",
                self.path,
                "datasets of the Hugging Face hub (over the network, or from its cache by "
                "corpus.streaming=false), and local folders of parquet, jsonl, csv or text files",
                f"it cannot be loaded: {reason}",
            ) from error


def sha1(text: str) -> str:
    """Hexadecimal SHA-1 of a text."""
    return hashlib.sha1(text.encode()).hexdigest()


def _keyed_by_text(texts: Iterable[str]) -> Iterator[Document]:
    for text in map(str.strip, texts):
        if text:
            yield Document(text, sha1(text))


def at_least_one(documents: Iterator[Document], setting: str, value: object) -> Iterator[Document]:
    """The same documents, or a `NotAllowed` that names the setting where there is none."""
    first = next(documents, None)
    if first is None:
        raise NotAllowed(setting, value, "corpora with some text in them", "it holds no document")
    yield first
    yield from documents


def _compiled(heading: str) -> re.Pattern[str]:
    try:
        return re.compile(heading)
    except re.error as error:
        raise NotAllowed("heading", heading, "regular expressions of Python", str(error)) from None


def _glob(pattern: str) -> list[Path]:
    """The files that match, in order. A name that exists is taken as it is, brackets and all."""
    names = [pattern] if Path(pattern).is_file() else glob.glob(pattern, recursive=True)
    return sorted(path for path in map(Path, names) if path.is_file())


def _matching_files(path: str | Sequence[str]) -> list[Path]:
    files = []
    for pattern in [path] if isinstance(path, str) else path:
        found = _glob(str(Path(pattern).expanduser()))
        if not found:
            raise NotAllowed(
                "path",
                pattern,
                "a text file, a glob pattern such as 'texts/**/*.txt', or a list of them",
                f"it matches no file (working directory: {Path.cwd()})",
            )
        files += found
    return sorted(set(files))


def _split_at(file: TextIO, separator: str) -> Iterator[str]:
    rest = ""
    while chunk := file.read(_CHUNK):
        *texts, rest = (rest + chunk).split(separator)
        yield from texts
    yield rest


def _holds(file: TextIO, text: str) -> bool:
    """Whether a text occurs in a file, which is read as far as that takes."""
    rest = ""
    while chunk := file.read(_CHUNK):
        rest += chunk
        if text in rest:
            return True
        rest = rest[max(0, len(rest) - len(text) + 1) :]
    return False


def _split_before(lines: Iterable[str], opens: Callable[[str], bool]) -> Iterator[str]:
    """Join the lines to texts, a new one at each line that opens one."""
    text: list[str] = []
    for line in lines:
        if opens(line):
            yield "".join(text)
            text = []
        text.append(line)
    yield "".join(text)
