"""`load`: an SAE of any format, from a folder, a file or the Hugging Face hub."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from sae_nfm.interop import dictionary_learning, gemma_scope, hub, sae_lens, sae_nfm, sparsify
from sae_nfm.interop.files import Place, Target
from sae_nfm.interop.published import Published
from sae_nfm.settings.values import NotAllowed

_NAMED = 5  # folders named in an error


class Format(Protocol):
    """What a format's file has."""

    @property
    def WEIGHTS(self) -> tuple[str, ...]:
        """Names of its files of weights, as patterns: what it is known by."""
        ...

    @property
    def BESIDE(self) -> tuple[str, ...]:
        """Names of the files that belong to them."""
        ...

    def read(self, place: Place) -> Published:
        """The SAE that lies there."""
        ...


FORMATS: Mapping[str, Format] = {
    "sae_lens": sae_lens,
    "gemma_scope": gemma_scope,
    "dictionary_learning": dictionary_learning,
    "sparsify": sparsify,
    "sae_nfm": sae_nfm,
}


def load(path: str | Path, file: str | None = None, format: str = "auto") -> Published:
    """Read a published SAE.

    Args:
        path: a folder, a file of weights, or a name on the Hugging Face hub (`org/repository`).
        file: a folder or a file of weights below it.
        format: a name in `FORMATS`, or `auto`: by the name of the file of weights.

    Raises:
        NotAllowed: there is no such SAE, its files contradict each other, or it is of a kind that there is
            not here. The message names the file, the field, what was found and what was expected.
    """
    if format not in ("auto", *FORMATS):
        raise NotAllowed("format", format, ["auto", *FORMATS])
    target, is_auto = _target(str(path), file), format == "auto"
    tried = FORMATS if is_auto else {format: FORMATS[format]}
    for known in tried.values():
        if place := target.place(known.WEIGHTS, any_name=not is_auto):
            return known.read(place)
    looked_for = "; ".join(f"{name}: {' or '.join(known.WEIGHTS)}" for name, known in tried.items())
    where = target.chosen or target.folder
    raise NotAllowed("path", where, f"SAEs by their files ({looked_for})", _hint(target))


def _target(path: str, file: str | None) -> Target:
    if not Path(path).exists():
        if not hub.is_hub_name(path):
            raise NotAllowed("path", path, "folders, files, and names on the Hugging Face hub")
        known = FORMATS.values()
        return hub.fetched(path, file, [name for each in known for name in (*each.WEIGHTS, *each.BESIDE)])
    found = Path(path) / (file or "")
    if found.is_dir():
        return Target(found, str(found.resolve()))
    if not found.is_file():
        raise NotAllowed("file", file, f"folders and files below {path}")
    folder = found.parent
    return Target(folder, str(folder.resolve()), None if found.suffix == ".json" else found)


def _hint(target: Target) -> str:
    """Folders below that hold SAEs, where the folder itself does not."""
    patterns = [pattern for known in FORMATS.values() for pattern in known.WEIGHTS]
    found = [path.parent for pattern in patterns for path in target.folder.rglob(pattern)]
    below = sorted({folder.relative_to(target.folder) for folder in found})
    if target.chosen is not None or not below:
        return "none of these is there"
    more = f" and {len(below) - _NAMED} more" if len(below) > _NAMED else ""
    return f"none of these is there, but there are in file={', '.join(map(str, below[:_NAMED]))}{more}"
