"""A process that another made has nothing to do without it."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tiny_studies import wait_until

MAKER = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from sae_nfm.store.processes import end_with_maker

with ProcessPoolExecutor(1, get_context("spawn"), end_with_maker) as made:
    print(made.submit(os.getpid).result(), flush=True)
    time.sleep(600)
"""


def is_there(pid):
    """Whether it runs, as opposed to waiting for somebody to ask how it ended."""
    with suppress(FileNotFoundError):
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    return False


def test_a_process_ends_when_the_one_that_made_it_is_killed():
    with subprocess.Popen([sys.executable, "-c", MAKER], stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        pid = int(maker.stdout.readline())
        assert is_there(pid)
        os.kill(maker.pid, signal.SIGKILL)
        wait_until(lambda: not is_there(pid))
