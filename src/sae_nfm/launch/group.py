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
from typing import TypeVar

from sae_nfm.launch.by_study import PrintedByStudy, logged
from sae_nfm.launch.errors import errors_of_a_study
from sae_nfm.launch.jobs import DONE, FAILED, Outcome
from sae_nfm.launch.prepared import Prepared, groups, in_words, prepared, room
from sae_nfm.launch.quiet import quiet
from sae_nfm.launch.together import Given, Message, given_to_this_process
from sae_nfm.progress import Terminal
from sae_nfm.report.html import write_report
from sae_nfm.settings.schema import register
from sae_nfm.store.company import Company, Together
from sae_nfm.store.processes import end_with_maker, end_without_looking_back, raise_when_terminated

log = logging.getLogger(__name__)
T = TypeVar("T")
_FORMAT, _TIME = "%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"
_GRACE = 10.0  # seconds that studies have to end
_WRITERS = min(4, os.cpu_count() or 1)  # processes for reports, at most


def main() -> None:
    """Run the jobs of this process, as many at a time as there is memory for, and say what became of each.

    Where a signal ends the process, every study ends first, as it would alone.
    """
    end_without_looking_back()
    raise_when_terminated()
    register()
    if (given := given_to_this_process()) is None:
        return
    sys.stdout = sys.stderr = printed = PrintedByStudy(sys.stdout)
    logging.basicConfig(level=logging.INFO, format=_FORMAT, datefmt=_TIME, handlers=[Terminal()], force=True)
    with quiet(), _writers(len(given.jobs)) as writers:
        company, done = Together(writers), Future()
        # One thread for all that computes, as each would have OpenMP's workers; signals go to the main one.
        thread = threading.Thread(target=_run, args=(given, company, printed, done), daemon=True)
        try:
            thread.start()
            done.result()
        except BaseException as end:
            company.end(end)
            thread.join(_GRACE)
            raise


def _writers(jobs: int) -> ProcessPoolExecutor:
    """Processes for reports, which come all at once."""
    number = min(jobs, _WRITERS)
    pool = ProcessPoolExecutor(number, get_context("spawn"), end_with_maker)
    for _ in range(number):
        pool.submit(callable, write_report)  # has each start, and import it, before the first report is due
    return pool


def _run(given: Message, company: Together, printed: PrintedByStudy, done: Future[None]) -> None:
    """All that computes."""
    try:
        done.set_result(_run_groups(given, company, printed))
    except BaseException as error:
        done.set_exception(error)


def _run_groups(given: Message, company: Together, printed: PrintedByStudy) -> None:
    """Run the jobs, a group after the other."""
    ready = list(_prepared(given.jobs, company, printed))
    if not ready:
        return
    left = room(ready[0].device, given.gigabytes)
    chosen = groups(ready, left)
    for line in in_words(chosen, left):
        log.info(line)
    ready.clear()
    for group in chosen:
        company.run([partial(_study, job, printed) for job in group])
        group.clear()  # so that nothing is kept of studies that have run


def _prepared(jobs: list[Given], company: Company, printed: PrintedByStudy) -> Iterator[Prepared]:
    """The jobs that can run; those that cannot have said why."""
    for given in jobs:
        started = time.perf_counter()
        with printed.to(given.job.output):
            ready, why = _attempt(partial(prepared, given, company), given.log)
        if ready is None:
            given.job.record(Outcome(FAILED, why, time.perf_counter() - started))
        else:
            yield ready


def _study(ready: Prepared, printed: PrintedByStudy) -> None:
    """One job, to its record."""
    job, started = ready.job, time.perf_counter()
    with printed.to(job.output):
        _, why = _attempt(ready.study.run, ready.log)
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
