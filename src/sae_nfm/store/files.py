"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WEIGHTS = "weights.safetensors"
"""Of whatever is trained, in its artifact's folder."""


class CorruptedArtifact(ValueError):
    """A file of an artifact is missing or differs from the one that was written."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; what is written takes the place of `path` in one rename at the end.

    A reader sees the old file or the whole new one. Where writing fails, as on a full disk, the old one stays
    and nothing else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Write `text` to `path`, in UTF-8, so that no part of it is ever seen."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
