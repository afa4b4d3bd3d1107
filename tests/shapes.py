"""Checks shapes and types of tensors, and nothing else, wherever the package is called in a test.

For `pytest --jaxtyping-packages=sae_nfm,shapes.checked`: the tensors of every function are held against its
annotations. Others are left out, so that a test's stand-in need not be what it stands for.
"""

import inspect
from types import NoneType
from typing import Any, get_args

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray


def checked(function):
    """A function whose tensors are checked at every call; a class as it is."""
    if not inspect.isfunction(function):
        return function
    function.__annotations__ = {
        name: hint for name, hint in function.__annotations__.items() if _speaks_of_arrays(hint)
    }
    return beartype(function, conf=BeartypeConf(is_pep484_tower=True))


def _speaks_of_arrays(hint: Any) -> bool:
    """Whether a hint is of arrays, or of containers of nothing but arrays."""
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return True
    parts = [part for part in get_args(hint) if part not in (NoneType, Ellipsis)]
    return bool(parts) and all(map(_speaks_of_arrays, parts))
