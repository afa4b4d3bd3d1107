"""The process of several jobs, each a study, in turns."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from sae_nfm.launch.by_study import PrintedByStudy, logged
from sae_nfm.launch.errors import errors_of_a_study
from sae_nfm.launch.jobs import DONE, FAILED, Job, Outcome
from sae_nfm.launch.prepared import Prepared, groups, in_words, prepared, room
from sae_nfm.launch.quiet import quiet
from sae_nfm.launch.single import run_composed
from sae_nfm.launch.together import gigabytes_of_this_process, jobs_of_this_process
from sae_nfm.progress import Terminal
from sae_nfm.settings.schema import register
from sae_nfm.store.company import Company, Together
from sae_nfm.store.processes import end_with_maker, end_with_parent, raise_when_terminated

log = logging.getLogger(__name__)
T = TypeVar("T")
_FORMAT, _TIME = "%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"
_GRACE = 10.0  # seconds that studies have to end
_WRITERS = min(4, os.cpu_count() or 1)  # processes for reports, which come all at once


def main() -> None:
    """Run the jobs of this process, as many at a time as there is memory for, and say what became of each.

    Where a signal ends the process, every study ends first, as it would alone.
    """
    end_with_parent()
    raise_when_terminated()
    register()
    sys.stdout = sys.stderr = printed = PrintedByStudy(sys.stdout)
    logging.basicConfig(level=logging.INFO, format=_FORMAT, datefmt=_TIME, handlers=[Terminal()], force=True)
    with quiet(), ProcessPoolExecutor(_WRITERS, get_context("spawn"), end_with_maker) as writers:
        company, done = Together(writers), Future()
        # One thread for all that computes, as each would have OpenMP's workers; signals go to the main one.
        thread = threading.Thread(target=_run, args=(company, printed, done), daemon=True)
        try:
            thread.start()
            done.result()
        except BaseException as end:
            company.end(end)
            thread.join(_GRACE)
            raise


def _run(company: Together, printed: PrintedByStudy, done: Future[None]) -> None:
    """All that computes."""
    try:
        done.set_result(_run_groups(company, printed))
    except BaseException as error:
        done.set_exception(error)


def _run_groups(company: Together, printed: PrintedByStudy) -> None:
    """Run the jobs, a group after the other."""
    ready = list(_prepared(jobs_of_this_process(), company, printed))
    if not ready:
        return
    left = room(ready[0].device, gigabytes_of_this_process())
    chosen = groups(ready, left)
    for line in in_words(chosen, left):
        log.info(line)
    for group in chosen:
        company.run([partial(_study, job, company, printed) for job in group])


def _prepared(jobs: list[dict[str, Any]], company: Company, printed: PrintedByStudy) -> Iterator[Prepared]:
    """The jobs that can run; those that cannot have said why."""
    for described in jobs:
        log_file, started = Path(described["log"]), time.perf_counter()
        job = Job(log_file.parent)
        with printed.to(job.output):
            ready, why = _attempt(partial(prepared, described["overrides"], job, company), log_file)
        if ready is None:
            job.record(Outcome(FAILED, why, time.perf_counter() - started))
        else:
            yield ready


def _study(ready: Prepared, company: Together, printed: PrintedByStudy) -> None:
    """One job, to its record."""
    job, started = ready.job, time.perf_counter()
    with printed.to(job.output):
        log_file = job.folder / f"{ready.hydra.job.name}.log"
        _, why = _attempt(lambda: run_composed(ready.cfg, ready.hydra, company), log_file)
        seconds = time.perf_counter() - started
        job.record(Outcome(FAILED, why, seconds) if why else Outcome(DONE, seconds=seconds))


def _attempt(act: Callable[[], T], log_file: Path) -> tuple[T | None, str]:
    """What an action gives; else why it failed, in a line, once it is told in full."""
    try:
        with logged(log_file), errors_of_a_study():
            return act(), ""
    except SystemExit as end:
        print(end.code)
        return None, str(end.code).partition("\n")[0].removeprefix("error: ")
