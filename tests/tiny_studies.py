"""Studies of seconds, run as a user runs them: `python -m sae_nfm …` in processes of their own."""

import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

TESTS = Path(__file__).parent
SETTINGS = [
    *("corpus=text", "layer=1", "context=32", "sae.d_sae=64", "sae.k=4", "nfm.d_embed=8", "logger=none"),
    *("train_tokens=8192", "batch_tokens=1024", "pool_tokens=4096", "validation_tokens=1000"),
    f"trainer={os.environ.get('TEST_TRAINER', 'cpu')}",
    *("eval_tokens=700", "evaluation.draws=2", "evaluation.baselines=[eps]"),
    *("splits.validation=0.2", "splits.test=0.2"),
]


FORKING = multiprocessing.get_context("forkserver")
"""Starts processes that have imported what a study needs, which takes longer than a tiny study does."""
FORKING.set_forkserver_preload(["sae_nfm.launch.single", "sae_nfm.report.html"])


def as_main(module: str, arguments: list[str], folder: Path, environment: dict[str, str]) -> None:
    """What `python -m` does, in this process."""
    with (folder / "printed.log").open("w") as printed:
        for stream in (1, 2):
            os.dup2(printed.fileno(), stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [str(TESTS)]
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


class Suite:
    """Runs tiny studies that share a corpus and a store.

    Args:
        folder: working directory of the studies.
        corpus: a text file.
    """

    def __init__(self, folder: Path, corpus: Path):
        self.folder = folder
        self.settings = [*SETTINGS, f"corpus.path={corpus}"]

    def start(self, *overrides: str, sweep: bool = False) -> subprocess.Popen:
        """A study or a sweep under way; what it prints goes to `printed.log`."""
        flags = ["-m"] if sweep else []
        with (self.folder / "printed.log").open("w") as printed:
            return subprocess.Popen(
                [sys.executable, "-m", "sae_nfm", *flags, *self.settings, *overrides],
                cwd=self.folder, env=self._environment(), stdout=printed, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def run(self, *overrides: str, sweep: bool = False, timeout: float = 400) -> tuple[int, str]:
        """Exit status and output of a study or a sweep."""
        if not sweep:
            return self.forked("sae_nfm", *self.settings, *overrides, timeout=timeout)
        status = self.start(*overrides, sweep=True).wait(timeout)
        return status, (self.folder / "printed.log").read_text()

    def forked(self, module: str, *arguments: str, timeout: float = 400) -> tuple[int, str]:
        """Exit status and output of a program of the package."""
        how = (module, list(arguments), self.folder, self._environment())
        process = FORKING.Process(target=as_main, args=how)
        process.start()
        process.join(timeout)
        if (status := process.exitcode) is None:
            process.kill()
            raise TimeoutError(f"it did not end in {timeout:.0f} s")
        return status, (self.folder / "printed.log").read_text()

    @staticmethod
    def _environment() -> dict[str, str]:
        path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        return os.environ | {"PYTHONPATH": path}

    def artifacts(self, kind: str) -> list[str]:
        """What is in the store, finished or not; locks left out."""
        return [path.name for path in (self.folder / "artifacts" / kind).iterdir() if path.suffix != ".lock"]

    def result(self, study: str) -> dict:
        return json.loads((self.folder / study / "result.json").read_text())

    def jobs(self, sweep: str) -> dict[str, dict]:
        """`job.json` of every job."""
        records = sorted((self.folder / sweep).glob("*/job.json"))
        return {record.parent.name: json.loads(record.read_text()) for record in records}

    def processes(self) -> dict[int, str]:
        """Processes that work in this suite's folder or on its corpus, by id."""
        listed = subprocess.run(["ps", "-ww", "-eo", "pid=,stat=,args="], capture_output=True, text=True)
        rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
        return {int(pid): args for pid, stat, args in rows if stat[0] != "Z" and self._concerns(pid, args)}

    def _concerns(self, pid: str, args: str) -> bool:
        with suppress(OSError):
            if Path(os.readlink(f"/proc/{pid}/cwd")) == self.folder:
                return True
        return str(self.folder) in args or self.settings[-1] in args


def wait_until(happened, seconds: float = 120):
    """What `happened` returns once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
    return found
