"""SHA-256 of files, remembered, so that gigabytes of weights are read once and not at every start."""

import hashlib
import os
import time
from pathlib import Path

_SETTLED = 2.0  # seconds after which a file's time of change tells it from a later one


def file_hash(path: Path, *, remembered: bool = True) -> str:
    """SHA-256 of the whole file.

    Args:
        path: of the file.
        remembered: whether an earlier result for the same path, size, time of change and inode will do. It is
            looked up in `$XDG_CACHE_HOME/sae_nfm/hashes`, or below `~/.cache`.
    """
    status = path.stat()
    identity = f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ino}"
    known = _memory() / hashlib.sha256(identity.encode()).hexdigest()
    if remembered and (digest := _read(known)):
        return digest
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time() - status.st_mtime > _SETTLED and path.stat().st_mtime_ns == status.st_mtime_ns:
        _remember(known, digest)
    return digest


def _memory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sae_nfm" / "hashes"


def _read(known: Path) -> str | None:
    try:
        digest = known.read_text()
    except OSError:
        return None
    return digest if len(digest) == 64 else None


def _remember(known: Path, digest: str) -> None:
    """Write it in one rename; where that cannot be, the file is read again next time."""
    partial = known.with_name(f".{known.name}.{os.getpid()}")
    try:
        known.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(digest)
        partial.replace(known)
    except OSError:
        partial.unlink(missing_ok=True)
