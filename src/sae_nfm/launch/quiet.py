"""What others say by the way."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_CHATTY = ("lightning.pytorch", "lightning.fabric")


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out what Lightning and Python say by the way: tips, devices, how processes meet."""
    before = {name: logging.getLogger(name).level for name in _CHATTY}
    for name in before:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
