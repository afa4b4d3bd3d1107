"""What a process of several jobs prints and logs, to the files of each."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TextIO

_FORMAT = "[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"
_PRINTED: ContextVar[TextIO | None] = ContextVar("printed", default=None)
_LOGGED: ContextVar[Path | None] = ContextVar("logged", default=None)


class PrintedByStudy(io.TextIOBase):
    """A stream whose text goes where its study prints to.

    Args:
        otherwise: where all other text goes.
    """

    def __init__(self, otherwise: TextIO) -> None:
        self._otherwise = otherwise

    @contextmanager
    def to(self, path: Path) -> Iterator[None]:
        """Have what is printed within, by this study, go to a file."""
        with path.open("a", encoding="utf-8") as file:
            before = _PRINTED.set(file)
            try:
                yield
            finally:
                _PRINTED.reset(before)

    def write(self, text: str) -> int:
        """Print."""
        return self._file().write(text)

    def flush(self) -> None:
        """Hand on what is not yet written."""
        self._file().flush()

    def _file(self) -> TextIO:
        return _PRINTED.get() or self._otherwise


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Write what this study logs to a file."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter(_FORMAT))
    handler.addFilter(lambda record: _LOGGED.get() == path)
    before = _LOGGED.set(path)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
        _LOGGED.reset(before)
