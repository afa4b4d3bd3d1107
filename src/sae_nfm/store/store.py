"""Artifacts: trained or prepared things, one folder each, found by the fingerprint of what made them.

A folder is built as `<fingerprint>.partial`, which survives a kill so that its maker can resume, and takes
its final name in one rename after its manifest is written. A lock per fingerprint makes a second process
wait for the first instead of making the same thing again. What is there already is read without a lock, so
that a store can be read-only.
"""

import errno
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from filelock import FileLock, Timeout

from sae_nfm.settings.values import NotAllowed
from sae_nfm.store.company import ALONE, Company
from sae_nfm.store.files import CorruptedArtifact, write_atomically
from sae_nfm.store.hashes import file_hash
from sae_nfm.store.ranks import Ranks

log = logging.getLogger(__name__)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
MANIFEST = "manifest.json"
_SMALL = 1 << 29  # bytes up to which an artifact's file is read at every look at it


def fingerprint(spec: Mapping[str, Any]) -> str:
    """First 16 hex digits of the SHA-256 of `spec` as canonical JSON."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]


class Recipe(Protocol[T_co]):
    """How one thing is made: what determines it, how it is made into a folder, and loaded from there.

    `kind` is the first part of the folder's name, and `together` says whether all processes of a study make
    it, as for training, or the first alone.
    """

    @property
    def kind(self) -> str:
        """`sae`, `nfm`, `tokens`, …"""
        ...

    @property
    def together(self) -> bool:
        """Whether all processes make it."""
        ...

    def spec(self) -> dict[str, Any]:
        """Everything that determines it, as JSON: whole nodes of the configuration."""
        ...

    def about(self) -> dict[str, Any]:
        """What its manifest says for whoever finds it without the study."""
        ...

    def make(self, folder: Path) -> None:
        """Fill a folder, which may hold what an interrupted call left."""
        ...

    def load(self, folder: Path) -> T_co:
        """What a finished folder holds."""
        ...


class Obtained(NamedTuple, Generic[T]):
    """A thing and the folder of its artifact."""

    value: T
    folder: Path


class Store:
    """The folder of all artifacts, `<root>/<kind>/<fingerprint>/`.

    Args:
        root: the folder.
        ranks: the processes of the study.
        verify: whether files of many gigabytes are read and compared too, and not by their size alone.
        company: the studies of this process, which go on while this one waits for what another makes.
    """

    def __init__(
        self,
        root: Path | str,
        ranks: Ranks | None = None,
        verify: bool = False,
        company: Company = ALONE,
    ) -> None:
        self.root, self.ranks, self.verify = Path(root), ranks or Ranks(), verify
        self.company = company

    def obtain(self, recipe: "Recipe[T]") -> "Obtained[T]":
        """What a recipe makes, made if it is not there; the same as `fetch`, and loaded."""
        folder = self.fetch(
            recipe.kind, recipe.spec(), recipe.make, together=recipe.together, about=recipe.about
        )
        return Obtained(recipe.load(folder), folder)

    def fetch(
        self,
        kind: str,
        spec: Mapping[str, Any],
        make: Callable[[Path], None],
        *,
        together: bool = False,
        about: Callable[[], Mapping[str, Any]] = dict,
    ) -> Path:
        """Return the folder of the artifact that `spec` determines, making it if it is not there.

        Of several processes of one study the first alone locks, decides and finishes; the others follow it.

        Args:
            kind: `sae`, `nfm`, `tokens`, …: the first part of the folder's name.
            spec: everything that determines the artifact; JSON-serialisable.
            make: fills the folder it is given. That folder may hold what an interrupted call left.
            together: whether all processes of the study call `make`, as for training, or the first alone.
            about: what the manifest says of it beside `spec`, for whoever finds it without the study.

        Raises:
            CorruptedArtifact: a file of a finished artifact is missing or was changed.
            ValueError: it is not there, and the store cannot be written to or is full.
        """
        folder = self.root / kind / fingerprint(spec)
        if self.ranks.from_first(lambda: _is_whole(folder, self.verify)):
            return folder
        partial = folder.with_suffix(".partial")
        with ExitStack() as held, _room_for(folder):
            self.ranks.from_first(lambda: held.enter_context(_lock(folder, self.company)))
            if self.ranks.from_first(lambda: _is_whole(folder, self.verify)):  # made by another meanwhile
                return folder
            if together:
                partial.mkdir(exist_ok=True)
                make(partial)
            self.ranks.from_first(lambda: _finish(partial, folder, spec, about, None if together else make))
        return folder


@contextmanager
def _lock(folder: Path, company: Company) -> Iterator[None]:
    """Hold the right to make an artifact.

    The lock's file is deleted while it is held. A process that opened it before and gets the lock after sees
    that its file has no name any more, and tries again: `filelock` looks at `st_nlink`, from 3.21 on.
    """
    path = folder.with_suffix(".lock")
    lock = FileLock(path)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not _is_got(lock):
            log.info("waiting for the study that makes %s", folder)
            company.wait_for(lambda: _is_got(lock))
    except OSError as error:
        raise _cannot_be_made(folder, error) from error
    try:
        yield
    finally:
        with suppress(OSError):  # where open files cannot be deleted, it stays
            path.unlink()
        lock.release()


def _is_got(lock: FileLock) -> bool:
    with suppress(Timeout):
        lock.acquire(timeout=0)
    return lock.is_locked


@contextmanager
def _room_for(folder: Path) -> Iterator[None]:
    """Tell a disk that is full as a setting that has to change, not as a bug."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _cannot_be_made(folder, error) from error


def _cannot_be_made(folder: Path, error: OSError) -> NotAllowed:
    return NotAllowed(
        "artifacts",
        folder,
        "folders that can be written to, with room, and folders that hold all that the study needs",
        f"it is not there and cannot be made ({error})",
    )


def _is_whole(folder: Path, verify: bool) -> bool:
    if folder.exists():
        _verify(folder, thoroughly=verify)
    return folder.exists()


def _finish(
    partial: Path,
    folder: Path,
    spec: Mapping[str, Any],
    about: Callable[[], Mapping[str, Any]],
    make: Callable[[Path], None] | None,
) -> None:
    if make is not None:
        partial.mkdir(exist_ok=True)
        try:
            make(partial)
        except Exception:
            discard(partial)  # only training goes on from what it left
            raise
    _write_manifest(partial, spec, about())
    partial.replace(folder)


def discard(folder: Path) -> None:
    """Delete a folder inside an unfinished artifact, such as its checkpoints once training is done."""
    shutil.rmtree(folder, ignore_errors=True)


def _write_manifest(folder: Path, spec: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    written = {
        str(p.relative_to(folder)): {
            "bytes": p.stat().st_size,
            "sha256": file_hash(p, remembered=False),
        }
        for p in files
    }
    manifest = {"about": about, "spec": spec, "files": written}
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1))


def _verify(folder: Path, thoroughly: bool) -> None:
    """Hold the files against the manifest: large ones by their size alone, unless `thoroughly`."""
    for name, written in _manifest(folder).items():
        path = folder / name
        is_whole = path.is_file() and path.stat().st_size == written["bytes"]
        if is_whole and (thoroughly or written["bytes"] <= _SMALL):
            is_whole = file_hash(path, remembered=False) == written["sha256"]
        if not is_whole:
            raise CorruptedArtifact(
                f"{path} is missing or differs from what was written; allowed: the file as its manifest "
                f"records it. Delete {folder} to make it again"
            )


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """What each file of an artifact was when it was written."""
    path = folder / MANIFEST
    try:
        files = json.loads(path.read_text())["files"]
        return {
            name: {"bytes": int(file["bytes"]), "sha256": str(file["sha256"])} for name, file in files.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptedArtifact(
            f"{path} is no manifest of an artifact ({type(error).__name__}: {error}); "
            f"delete {folder} to make it again"
        ) from error
