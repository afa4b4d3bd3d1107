"""The corpus that every installation has: docstrings of Python's standard library and installed packages."""

import ast
import gc
import importlib.metadata
import importlib.util
import logging
import os
import platform
import re
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sae_nfm import progress
from sae_nfm.data.corpora import Document, at_least_one, sha1
from sae_nfm.settings.values import Natural, checked
from sae_nfm.store.store import fingerprint

STANDARD_LIBRARY = "stdlib"  # the name under which Python's own modules are read
_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages"}
_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_TEST_FILE = re.compile(r"test_.*|.*_test|conftest")

log = logging.getLogger(__name__)


@checked
class DocstringCorpus:
    """Docstrings of installed Python packages: English technical prose that every installation has.

    The files are parsed, never imported. A docstring is a document, each text once, keyed by the path of
    its file and its qualified name. Test files are left out, and so are packages that are not installed.

    Args:
        packages: importable top-level names; `stdlib` is Python's standard library.
        min_chars: only longer docstrings are taken.
    """

    def __init__(self, packages: Sequence[str], min_chars: Natural) -> None:
        self.packages = list(packages)
        self.min_chars = min_chars

    def documents(self) -> Iterator[Document]:
        """Yield the docstrings in the order of their keys' hashes: any first part is a fair sample."""
        return at_least_one(iter(self._documents()), "corpus.packages", self.packages)

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
        with (
            _collector_paused(),
            warnings.catch_warnings(action="ignore"),  # invalid escapes of others
            progress.line("docstrings", len(files), "files") as line,
        ):
            for number, (name, root, path) in enumerate(files, 1):
                for qualified_name, text in _docstrings(path):
                    if len(text) > self.min_chars:
                        key_of.setdefault(
                            text, f"{name}/{path.relative_to(root).as_posix()}:{qualified_name}"
                        )
                line.at(number)
        documents = [Document(text, key) for text, key in key_of.items()]
        return sorted(documents, key=lambda document: (sha1(document.key), document.text))


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
