"""Checkpoints to go on from: written beside their final name, each with its hash, and the one before kept."""

import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from sae_nfm.settings.values import NotAllowed
from sae_nfm.store.files import write_atomically
from sae_nfm.store.hashes import file_hash

log = logging.getLogger(__name__)
LAST, BEFORE, HASHES = "last.ckpt", "before.ckpt", "hashes.json"


class Checkpoints(Callback):
    """Keeps the last two checkpoints of a run, so that there is a whole one at every moment.

    A cut, a full disk or a flipped bit costs the steps since the checkpoint before, and never the run.

    Args:
        folder: of the checkpoints.
        every: steps between two of them.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a checkpoint if it is time; all processes come here, and the first one writes.

        Raises:
            NotAllowed: the disk does not take it; the checkpoints before are still there.
        """
        if trainer.global_step % self.every:
            return
        partial = self.folder / f".{LAST}"
        try:
            with _temporary_files_in(self.folder):
                trainer.save_checkpoint(partial, weights_only=False)
            if trainer.is_global_zero:
                self._publish(partial)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise NotAllowed(
                "artifacts",
                self.folder,
                "disks with room for a checkpoint; the same command goes on from the one before",
                f"the checkpoint of step {trainer.global_step} cannot be written ({error.strerror})",
            ) from error

    def _publish(self, partial: Path) -> None:
        """Let the last checkpoint be the one before; a hash is on disk before what it belongs to."""
        last = self.folder / LAST
        hashes = [file_hash(partial, remembered=False), *_hashes(self.folder)[:1]]
        write_atomically(self.folder / HASHES, json.dumps(hashes))
        if last.exists():
            last.replace(self.folder / BEFORE)
        partial.replace(last)


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is as it was written; those that are damaged are told of and deleted."""
    for cut_off in folder.glob(f"{tempfile.gettempprefix()}*"):
        cut_off.unlink()
    hashes = _hashes(folder)
    for path in (folder / LAST, folder / BEFORE):
        if not path.exists():
            continue
        digest = file_hash(path, remembered=False)
        if digest in hashes:
            hashes.sort(key=lambda known: known != digest)  # a cut may have left that of one never published
            write_atomically(folder / HASHES, json.dumps(hashes))
            return path
        log.warning("%s is damaged, its hash is not the one that was written: it is deleted", path)
        path.unlink()
    return None


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Let what Lightning writes under another name first lie where it is kept, and not in `$TMPDIR`."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _hashes(folder: Path) -> list[str]:
    """SHA-256 of the checkpoints, the newest first; none where there are none to be read."""
    try:
        return [str(digest) for digest in json.loads((folder / HASHES).read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []
