"""The process of several jobs, each a study in a thread of its own: `python -m sae_nfm.launch.group`."""

import io
import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

from hydra.conf import HydraConf
from omegaconf import DictConfig, OmegaConf

from sae_nfm.launch.composed import check_one_process, composed
from sae_nfm.launch.errors import errors_of_a_study
from sae_nfm.launch.jobs import DONE, FAILED, Job, Outcome
from sae_nfm.launch.quiet import quiet
from sae_nfm.launch.single import run_composed
from sae_nfm.launch.together import jobs_of_this_process
from sae_nfm.settings.schema import register
from sae_nfm.store.company import Together
from sae_nfm.store.processes import end_with_parent, raise_when_terminated

log = logging.getLogger(__name__)
_FORMAT, _TIME = "%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"
_GRACE = 10.0  # seconds that studies have to end


def main() -> None:
    """Run the jobs of this process, and say of each what became of it."""
    end_with_parent()
    raise_when_terminated()
    register()
    jobs = jobs_of_this_process()
    company, printed = Together(len(jobs)), _ByThread(sys.stdout)
    sys.stdout = sys.stderr = printed
    logging.basicConfig(level=logging.INFO, format=_FORMAT, datefmt=_TIME, stream=printed, force=True)
    threads = [threading.Thread(target=_run, args=(job, company, printed), daemon=True) for job in jobs]
    with quiet(), _ended_with_this(company, threads):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


@contextmanager
def _ended_with_this(company: Together, threads: list[threading.Thread]) -> Iterator[None]:
    """Where a signal ends the process, let every study end first, as it would by itself."""
    try:
        yield
    except BaseException as end:
        company.end(end)
        deadline = time.monotonic() + _GRACE
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        raise


def _run(described: dict[str, Any], company: Together, printed: "_ByThread") -> None:
    """One job, from its configuration to its record."""
    job, started = Job(Path(described["folder"])), time.perf_counter()
    with printed.to(job.output), company.member():
        why = _study(described["overrides"], job, company)
        seconds = time.perf_counter() - started
        job.record(Outcome(FAILED, why, seconds) if why else Outcome(DONE, seconds=seconds))


def _study(overrides: list[str], job: Job, company: Together) -> str:
    """Run a study; why it failed, in a line, or nothing."""
    try:
        with ExitStack() as logs, errors_of_a_study():
            cfg, hydra = _composed(overrides, job)
            logs.enter_context(_logged(job.folder / f"{hydra.job.name}.log"))
            run_composed(cfg, hydra, company)
    except SystemExit as end:
        print(end.code)
        return str(end.code).partition("\n")[0].removeprefix("error: ")
    return ""


def _composed(overrides: list[str], job: Job) -> tuple[DictConfig, HydraConf]:
    cfg, hydra = composed(overrides)
    OmegaConf.set_struct(cfg, True)
    hydra.runtime.output_dir = str(job.folder)
    check_one_process(cfg.trainer, "studies that share a process have one device")
    return cfg, hydra


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Write what this thread logs to a file."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
    me = threading.get_ident()
    handler.addFilter(lambda record: record.thread == me)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


class _ByThread(io.TextIOBase):
    """A stream whose text goes where its thread prints to.

    Args:
        otherwise: where that of other threads goes.
    """

    def __init__(self, otherwise: TextIO) -> None:
        self._otherwise = otherwise
        self._files: dict[int, TextIO] = {}

    @contextmanager
    def to(self, path: Path) -> Iterator[None]:
        """Have this thread print to a file."""
        me = threading.get_ident()
        with path.open("a", encoding="utf-8") as file:
            self._files[me] = file
            try:
                yield
            finally:
                del self._files[me]

    def write(self, text: str) -> int:
        """Print."""
        return self._file().write(text)

    def flush(self) -> None:
        """Hand on what is not yet written."""
        self._file().flush()

    def _file(self) -> TextIO:
        return self._files.get(threading.get_ident(), self._otherwise)


if __name__ == "__main__":
    main()
