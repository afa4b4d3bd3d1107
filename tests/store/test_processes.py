"""How processes end: one that another made has nothing to do without it, and none collects garbage first."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("looks_back", [True, False])
def test_a_process_that_ends_without_looking_back_collects_nothing(looks_back):
    program = """
import sys
from sae_nfm.store.processes import end_without_looking_back
class Cycle:
    def __init__(self): self.itself = self
    def __del__(self): print("collected", flush=True)
if sys.argv[1] == "False": end_without_looking_back()
Cycle()
print("kept")
"""
    ran = subprocess.run([sys.executable, "-c", program, str(looks_back)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == (["kept", "collected"] if looks_back else ["kept"])
