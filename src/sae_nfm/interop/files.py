"""Files of tensors and of settings, read without running anything; every error names file and field."""

import json
import pickle
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sae_nfm.settings.values import NotAllowed

_UNREADABLE = (
    *(SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile, zlib.error),
    *(OSError, EOFError, ValueError, RuntimeError, KeyError),
)


class Place(NamedTuple):
    """Where an SAE lies."""

    folder: Path
    name: str
    """The folder as the user knows it, a name on the hub included: some formats say layer and site there."""
    weights: Path


class Target(NamedTuple):
    """What a user points to."""

    folder: Path
    name: str
    """As of a `Place`."""
    chosen: Path | None = None
    """The file of weights, where the user named one."""

    def place(self, patterns: Sequence[str], any_name: bool = False) -> Place | None:
        """The SAE there whose file of weights matches a pattern, if there is one.

        Args:
            patterns: of names of files.
            any_name: whether a file that the user named may have another.
        """
        if self.chosen is None:
            found = [path for pattern in patterns for path in sorted(self.folder.glob(pattern))]
        else:
            fits = any_name or any(fnmatch(self.chosen.name, pattern) for pattern in patterns)
            found = [self.chosen] if fits else []
        return Place(self.folder, self.name, found[0]) if found else None


class Settings:
    """A JSON file of settings.

    Args:
        path: of the file.

    Raises:
        NotAllowed: it is not there, or is no JSON object.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.all = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise NotAllowed("path", path, "folders with this file, in JSON", _short(error)) from error
        if not isinstance(self.all, dict):
            raise NotAllowed("path", path, "files that hold a JSON object")

    def under(self, *keys: str) -> "Settings":
        """The settings that stand under some keys, laid over one another; nothing where they are absent."""
        part = object.__new__(Settings)
        part.path, part.all = self.path, {}
        for key in keys:
            part.all |= self.all.get(key) or {}
        return part

    def get(self, name: str, kind: type, default: Any = None) -> Any:
        """A setting of a type; the default where it is absent or null.

        Raises:
            NotAllowed: it is of another type.
        """
        value = self.all.get(name)
        if value is None:
            return default
        wanted = (int, float) if kind is float else kind
        if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
            raise NotAllowed(name, value, f"values of type {kind.__name__}", f"in {self.path}")
        return value

    def need(self, name: str, kind: type) -> Any:
        """A setting that has to be there."""
        value = self.get(name, kind)
        if value is None:
            raise NotAllowed(name, "nothing", f"values of type {kind.__name__}", f"in {self.path}")
        return value

    def one_of(self, name: str, allowed: Sequence[str], default: str | None = None) -> str:
        """A setting that is one of some words."""
        value = self.need(name, str) if default is None else self.get(name, str, default)
        if value not in allowed:
            raise NotAllowed(name, value, list(allowed), f"in {self.path}")
        return value


class Tensors:
    """The tensors of a file by name, each held against the shape that it has to have.

    Args:
        path: of the file.
        found: what it holds.
    """

    def __init__(self, path: Path, found: Mapping[str, Any]) -> None:
        self.path = path
        self.found = {name: each for name, each in found.items() if isinstance(each, Tensor)}

    def __contains__(self, name: str) -> bool:
        return name in self.found

    def take(self, name: str, *shape: int | None) -> Tensor:
        """One tensor.

        Args:
            name: in the file.
            shape: that it must have; None where any length will do.

        Raises:
            NotAllowed: it is missing or of another shape.
        """
        wanted = "[" + ", ".join("…" if size is None else str(size) for size in shape) + "]"
        if name not in self.found:
            holds = ", ".join(sorted(self.found)) or "no tensors"
            raise NotAllowed(name, "nothing", f"tensors of shape {wanted}", f"{self.path} holds {holds}")
        tensor = self.found[name]
        fits = len(tensor.shape) == len(shape) and all(
            wish in (None, size) for size, wish in zip(tensor.shape, shape, strict=True)
        )
        if not fits:
            raise NotAllowed(name, list(tensor.shape), f"tensors of shape {wanted}", f"in {self.path}")
        return tensor


def tensors_of(path: Path) -> dict[str, Any]:
    """What a file of tensors holds: safetensors, and archives of NumPy or torch without pickled objects.

    Raises:
        NotAllowed: it cannot be read, or holds more than plain data.
    """
    read = {".safetensors": load_file, ".npz": _npz}.get(path.suffix, _pickle)
    try:
        return read(path)
    except _UNREADABLE as error:
        allowed = "files of tensors; none that runs code is ever opened"
        raise NotAllowed("path", path, allowed, _short(error)) from error


def _npz(path: Path) -> dict[str, Tensor]:
    with np.load(path, allow_pickle=False) as arrays:
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise ValueError("it is one array, not several by name")
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def _pickle(path: Path) -> dict[str, Any]:
    found = torch.load(path, weights_only=True, map_location="cpu")
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}, not tensors by name")
    return found


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]
