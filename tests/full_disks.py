"""Disks that are full, or not to be written to."""

import errno
import os
import subprocess
from contextlib import contextmanager

import pytest


def no_space(path):
    """What writing to a full disk ends in, after the half that did fit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half of it")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


@contextmanager
def small_disk(folder, kibibytes):
    """A file system of that size at the folder; yields a function that changes its options."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield lambda options: subprocess.run(
            ["mount", "-o", f"remount,{options}", str(folder)], check=True, capture_output=True
        )
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
