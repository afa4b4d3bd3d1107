"""Where text comes from: a corpus is an iterator of documents and a signature of what determines them."""

import ast
import gc
import glob
import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import platform
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TextIO

import datasets
from datasets.exceptions import DatasetsError
from tqdm import tqdm

from sae_nfm.store import file_signature, fingerprint

STANDARD_LIBRARY = "stdlib"  # the name under which DocstringCorpus reads Python's own modules
_CHUNK = 1 << 20  # characters read at a time
_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages"}
_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_TEST_FILE = re.compile(r"test_.*|.*_test|conftest")

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
            ValueError: the corpus cannot be read or is empty.
        """
        ...

    def signature(self) -> dict[str, Any]:
        """Everything that determines the documents, as JSON; where they lie is no part of it."""
        ...


class TextCorpus:
    """Documents of UTF-8 text files, keyed by their own text, so that duplicates share a split.

    Args:
        path: a file, a glob pattern or a list of them; relative to the working directory.
        separator: the string between two documents; where given, `document` is not asked.
        document: `blank_line`: blank lines separate documents; `heading`: a line that matches `heading`
            opens one; `file`: every file is one.
        heading: regular expression of a line that opens a document.

    Raises:
        ValueError: a setting is not allowed or no file matches `path`.
    """

    def __init__(
        self,
        path: str | Sequence[str],
        separator: str | None,
        document: Literal["blank_line", "heading", "file"],
        heading: str,
    ) -> None:
        if separator == "":
            raise ValueError(
                "corpus.separator='' is empty; allowed: a string that separates documents, or null"
            )
        if document not in ("blank_line", "heading", "file"):
            raise ValueError(f"corpus.document={document!r}; allowed: blank_line, heading, file")
        self.path = path
        self.separator = separator
        self.document = document
        self.heading = _compiled(heading)
        self.files = _matching_files(path)

    def documents(self) -> Iterator[Document]:
        """Yield the documents file by file, the files in the order of their paths."""
        return _at_least_one(self._documents(), "corpus.path", self.path)

    def signature(self) -> dict[str, Any]:
        """Names and signatures of the files, and the rule that cuts them."""
        cut: dict[str, Any] = {"document": self.document}
        if self.separator is not None:
            cut = {"separator": self.separator}
        elif self.document == "heading":
            cut["heading"] = self.heading.pattern
        return {"corpus": "text", "files": [[file.name, file_signature(file)] for file in self.files], **cut}

    def _documents(self) -> Iterator[Document]:
        for path in self.files:
            with path.open(encoding="utf-8-sig") as file:
                try:
                    yield from _keyed_by_text(self._texts(file))
                except UnicodeDecodeError as error:
                    raise ValueError(
                        f"corpus.path={self.path}: {path} is not UTF-8 text ({error.reason}); "
                        "allowed: text files in UTF-8"
                    ) from None

    def _texts(self, file: TextIO) -> Iterable[str]:
        if self.separator is not None:
            return _split_at(file, self.separator)
        if self.document == "blank_line":
            return _split_before(file, lambda line: not line.strip())
        if self.document == "heading":
            return _split_before(file, lambda line: self.heading.match(line) is not None)
        return [file.read()]


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
        return _at_least_one(_keyed_by_text(self._texts()), "corpus.path", self.path)

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
            "data_files": [[file.name, file_signature(file)] for file in files] or self.data_files,
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
                raise ValueError(
                    f"corpus.text_column={self.text_column} is no column of {self.path}; "
                    f"allowed: {', '.join(row)}"
                )
            yield row[self.text_column] or ""

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
        except (OSError, ValueError, DatasetsError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"corpus.path={self.path} cannot be loaded: {reason}\n"
                "allowed: a dataset of the Hugging Face hub (over the network, or from its cache by "
                "corpus.streaming=false), or a local folder of parquet, jsonl, csv or text files"
            ) from error


def _sha1(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()


def _keyed_by_text(texts: Iterable[str]) -> Iterator[Document]:
    for text in map(str.strip, texts):
        if text:
            yield Document(text, _sha1(text))


def _at_least_one(documents: Iterator[Document], setting: str, value: object) -> Iterator[Document]:
    first = next(documents, None)
    if first is None:
        raise ValueError(f"{setting}={value} holds no document; allowed: a corpus with some text in it")
    yield first
    yield from documents


def _compiled(heading: str) -> re.Pattern[str]:
    try:
        return re.compile(heading)
    except re.error as error:
        raise ValueError(
            f"corpus.heading={heading} ({error}); allowed: a regular expression of Python"
        ) from None


def _glob(pattern: str) -> list[Path]:
    """The files that match, in order. A name that exists is taken as it is, brackets and all."""
    names = [pattern] if Path(pattern).is_file() else glob.glob(pattern, recursive=True)
    return sorted(path for path in map(Path, names) if path.is_file())


def _matching_files(path: str | Sequence[str]) -> list[Path]:
    files = []
    for pattern in [path] if isinstance(path, str) else path:
        found = _glob(str(Path(pattern).expanduser()))
        if not found:
            raise ValueError(
                f"corpus.path={pattern} matches no file (working directory: {Path.cwd()}); "
                "allowed: a text file, a glob pattern such as 'texts/**/*.txt', or a list of them"
            )
        files += found
    return sorted(set(files))


def _split_at(file: TextIO, separator: str) -> Iterator[str]:
    rest = ""
    while chunk := file.read(_CHUNK):
        *texts, rest = (rest + chunk).split(separator)
        yield from texts
    yield rest


def _split_before(lines: Iterable[str], opens: Callable[[str], bool]) -> Iterator[str]:
    """Join the lines to texts, a new one at each line that opens one."""
    text: list[str] = []
    for line in lines:
        if opens(line):
            yield "".join(text)
            text = []
        text.append(line)
    yield "".join(text)


class DocstringCorpus:
    """Docstrings of installed Python packages: English technical prose that every installation has.

    The files are parsed, never imported. A docstring is a document, each text once, keyed by the path of
    its file and its qualified name. Test files are left out, and so are packages that are not installed.

    Args:
        packages: importable top-level names; `stdlib` is Python's standard library.
        min_chars: only longer docstrings are taken.
    """

    def __init__(self, packages: Sequence[str], min_chars: int) -> None:
        self.packages = list(packages)
        self.min_chars = min_chars

    def documents(self) -> Iterator[Document]:
        """Yield the docstrings in the order of their keys' hashes: any first part is a fair sample."""
        return _at_least_one(iter(self._documents()), "corpus.packages", self.packages)

    def signature(self) -> dict[str, Any]:
        """Versions of the packages, and a hash of the sizes of their source files."""
        packages = {
            name: {"version": _version(name), "files": fingerprint(_sizes(root))}
            for name, root in self._roots().items()
        }
        return {"corpus": "docstrings", "min_chars": self.min_chars, "packages": packages}

    def _roots(self) -> dict[str, Path]:
        roots = {}
        for name in sorted(set(self.packages)):
            root = _package_folder(name)
            if root is None:
                log.info("corpus.packages: %s is not installed as a package of files and is left out", name)
            else:
                roots[name] = root
        return roots

    def _documents(self) -> list[Document]:
        files = [(name, root, path) for name, root in self._roots().items() for path in _source_files(root)]
        key_of: dict[str, str] = {}  # by text: the first key that has a text keeps it
        with _collector_paused(), warnings.catch_warnings(action="ignore"):  # invalid escapes of others
            for name, root, path in tqdm(files, desc="docstrings", unit=" files", mininterval=1):
                for qualified_name, text in _docstrings(path):
                    if len(text) > self.min_chars:
                        key_of.setdefault(
                            text, f"{name}/{path.relative_to(root).as_posix()}:{qualified_name}"
                        )
        documents = [Document(text, key) for text, key in key_of.items()]
        return sorted(documents, key=lambda document: (_sha1(document.key), document.text))


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Without garbage collection parsing takes a third of the time: it makes many objects and no cycles."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _package_folder(name: str) -> Path | None:
    if name == STANDARD_LIBRARY:
        return Path(sysconfig.get_path("stdlib"))
    spec = importlib.util.find_spec(name)
    folders = spec.submodule_search_locations if spec else None
    return Path(folders[0]) if folders else None


def _version(name: str) -> str | None:
    if name == STANDARD_LIBRARY:
        return platform.python_version()
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None  # not every package is distributed under the name it is imported by


def _source_files(root: Path) -> list[Path]:
    files = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in _LEFT_OUT]
        sources = [Path(folder, name) for name in names if name.endswith(".py")]
        files += [path for path in sources if not _TEST_FILE.fullmatch(path.stem)]
    return sorted(files)


def _sizes(root: Path) -> dict[str, int]:
    return {path.relative_to(root).as_posix(): path.stat().st_size for path in _source_files(root)}


def _docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """Qualified name and text of every docstring of a file; nothing of a file that does not parse."""
    source = path.read_bytes()
    if b'"""' not in source and b"'''" not in source:
        return  # a long docstring has triple quotes, and parsing takes nearly all the time
    try:
        module = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        log.info("%s does not parse (%s) and is left out", path, error)
        return
    yield from _docstrings_below(module, "")


def _docstrings_below(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """Do what `ast.walk` would, without its visit to every expression."""
    if isinstance(node, (ast.Module, *_DEFINITIONS)) and (text := ast.get_docstring(node)):
        yield name, text.strip()
    for field in ("body", "orelse", "handlers", "finalbody"):
        for child in getattr(node, field, []):
            if isinstance(child, _DEFINITIONS):
                yield from _docstrings_below(child, f"{name}.{child.name}".lstrip("."))
            elif hasattr(child, "body"):
                yield from _docstrings_below(child, name)
