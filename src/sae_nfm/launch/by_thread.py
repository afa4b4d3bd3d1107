"""What a process of several jobs prints and logs, to the files of each."""

import io
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

_FORMAT = "[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"


class PrintedByThread(io.TextIOBase):
    """A stream whose text goes where its thread prints to.

    Args:
        otherwise: where that of other threads goes.
    """

    def __init__(self, otherwise: TextIO) -> None:
        self._otherwise = otherwise
        self._files: dict[int, TextIO] = {}

    @contextmanager
    def to(self, path: Path) -> Iterator[None]:
        """Have this thread print to a file."""
        me = threading.get_ident()
        with path.open("a", encoding="utf-8") as file:
            self._files[me] = file
            try:
                yield
            finally:
                del self._files[me]

    def write(self, text: str) -> int:
        """Print."""
        return self._file().write(text)

    def flush(self) -> None:
        """Hand on what is not yet written."""
        self._file().flush()

    def _file(self) -> TextIO:
        return self._files.get(threading.get_ident(), self._otherwise)


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Write what this thread logs to a file."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter(_FORMAT))
    me = threading.get_ident()
    handler.addFilter(lambda record: record.thread == me)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
