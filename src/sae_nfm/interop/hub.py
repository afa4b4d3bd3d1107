"""SAEs on the Hugging Face hub, through its library: its cache, its offline flag, its credentials."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeVar

import huggingface_hub

from sae_nfm.interop.files import Target
from sae_nfm.settings.values import NotAllowed

T = TypeVar("T")


def is_hub_name(name: str) -> bool:
    """Whether a name may be one of the hub's, as in `google/gemma-scope-2b-pt-res`."""
    return re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", name) is not None


def fetched(name: str, file: str | None, wanted: Sequence[str]) -> Target:
    """The files of an SAE on the hub, downloaded where the cache has not got them.

    Args:
        name: `org/repository`.
        file: a folder in it, or the file of weights; None is its top.
        wanted: patterns of the files to download of the folder; settings that lie above it come too.

    Raises:
        NotAllowed: the hub cannot be reached, or has no such repository or file.
    """
    is_file = file is not None and PurePosixPath(file).suffix in {".safetensors", ".npz", ".pt"}
    folder = PurePosixPath(file or "")
    folder = folder.parent if is_file else folder
    patterns = [str(folder / pattern) for pattern in wanted]
    patterns += [str(above / "config.json") for above in folder.parents]
    patterns += [file] if is_file and file else []
    root = Path(asked(name, lambda: huggingface_hub.snapshot_download(name, allow_patterns=patterns)))
    if not (root / (file or "")).exists():
        raise NotAllowed("file", file, f"folders and files of {name} on the hub")
    shown = "/".join((name, *folder.parts))
    return Target(root / folder, shown, root / file if is_file and file else None)


def pushed(folder: Path, name: str) -> str:
    """Upload a folder to a repository of its own, made where it is not there; its address."""

    def push() -> str:
        api = huggingface_hub.HfApi()
        api.create_repo(name, exist_ok=True)
        return str(api.upload_folder(folder_path=folder, repo_id=name))

    return asked(name, push)


def asked(name: str, request: Callable[[], T]) -> T:
    """What the hub answers.

    Raises:
        NotAllowed: nothing, or that it will not.
    """
    try:
        return request()
    except Exception as error:  # its HTTP client's too, whose package is another in every version
        reason = str(error).strip().partition("\n")[0]
        allowed = "folders and files that are there, and repositories of the hub that can be reached"
        raise NotAllowed("path", name, allowed, f"{type(error).__name__}: {reason}") from error
