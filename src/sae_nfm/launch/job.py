"""A sweep's job as a process of its own.

Lightning starts the other ranks of a study by running its command line again. Inside a Hydra multirun that is
the command line of the whole sweep, so every job becomes the command of a single study, whichever launcher it
comes from, and the process that the launcher gave it only waits.
"""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sae_nfm.launch.jobs import DONE, FAILED, REPORT, REUSED, UNFINISHED, Job, Outcome, same_study
from sae_nfm.settings.schema import given, plain
from sae_nfm.store.processes import ENDS_WITH, raise_when_terminated

log = logging.getLogger(__name__)
_PASSED_ON = ("hydra.searchpath=", "hydra.verbose=")
_ERROR = re.compile(r"(\[rank\d+\]: )?(error: .+|[\w.]*(Error|Exception|Exit|Interrupt|Loss|Artifact)\b.*)")
_CONSEQUENCE = re.compile("closed by peer|remote process exited")  # what a rank says when another has died
_GRACE = 10.0  # seconds that a job has to end by itself
_TAIL = 1 << 16  # bytes of a job's output that are searched for its error


def run_job(cfg: DictConfig) -> float | None:
    """Run the study that a sweep's job is, unless its folder holds its result already.

    Nothing is raised where the study fails, so that the other jobs go on: `job.json` says what happened.

    Returns:
        The number that `optimize` names, for a sweeper that looks for good settings; None if it is missing.
    """
    raise_when_terminated()
    hydra = HydraConfig.get()
    job = Job(Path(hydra.runtime.output_dir), rank=int(os.environ.get("SLURM_PROCID", 0)))
    result = job.result()
    if result is None:
        job.record(Outcome(UNFINISHED))
        os.environ.setdefault("WANDB_RUN_GROUP", Path(hydra.sweep.dir).name)  # W&B shows a sweep as a group
        log.info("%s: started; it prints to %s", job.folder.name, job.output)
        outcome = _run(_command(hydra, job), job)
        result = job.result()
    elif same_study(result["settings"], plain(cfg)):
        outcome = _with_report(job, result)
    else:
        outcome = Outcome(FAILED, "its folder holds the result of another study: delete it or name another")
    job.record(outcome)
    log.info("%s: %s %s", job.folder.name, outcome.state, outcome.reason and f"({outcome.reason})")
    return None if outcome.state == FAILED else _number(result, cfg.optimize)


def _with_report(job: Job, result: dict[str, Any]) -> Outcome:
    """The outcome of a job whose result is there; a report that a full disk left out is made from it."""
    if job.rank == 0 and not (job.folder / REPORT).exists():
        from sae_nfm.report.html import write_report  # here, as few jobs need it

        try:
            write_report(result, job.folder)
        except OSError as error:
            return Outcome(FAILED, f"its result is there, but no report can be written: {error}")
    return Outcome(REUSED)


def _command(hydra: HydraConf, job: Job) -> list[str]:
    """The command of the job's study, to be run alone."""
    directories = [
        f"--config-dir={source.path}"
        for source in hydra.runtime.config_sources
        if source.provider == "command-line"
    ]
    folder = str(job.folder).replace("'", "\\'")
    own = ["hydra.mode=RUN", f"hydra.run.dir='{folder}'", "hydra.output_subdir=null"]
    if job.rank:
        own.append(f"hydra.job.name=rank_{job.rank}")
    passed_on = [override for override in hydra.overrides.hydra if override.startswith(_PASSED_ON)]
    name = f"--config-name={hydra.job.config_name}"
    return [
        *(sys.executable, "-m", "sae_nfm", name),
        *directories,
        *given(hydra.overrides.task),
        *passed_on,
        *own,
    ]


def _run(command: list[str], job: Job) -> Outcome:
    """Run the command to its end."""
    started = time.perf_counter()
    with job.output.open("ab") as output:
        begin = output.tell()
        code = _wait(command, job, output)
    seconds = time.perf_counter() - started
    if code == 0 and (job.rank or job.result()):
        return Outcome(DONE, seconds=seconds)
    job.fail(_reason(code, job.output, begin))
    return Outcome(FAILED, job.failure() or "", seconds)


def _wait(command: list[str], job: Job, output: IO[bytes]) -> int:
    """The command's exit status, once no process of it is left."""
    environment = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
    environment[ENDS_WITH] = str(os.getpid())
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment,
        start_new_session=True,
    )  # fmt: skip
    try:
        while child.poll() is None and job.failure() is None:
            with suppress(subprocess.TimeoutExpired):
                child.wait(1.0)
    finally:
        _end(child)
    return child.returncode


def _end(child: subprocess.Popen) -> None:
    """End the process, and what is left of its group: ranks that have no first any more."""
    with suppress(ProcessLookupError):
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                child.wait(_GRACE)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _reason(code: int, output: Path, begin: int) -> str:
    """The last line of the output that names an error, else what the exit status says."""
    with output.open("rb") as file:
        file.seek(max(begin, output.stat().st_size - _TAIL))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    errors = [line for line in lines if _ERROR.fullmatch(line) and not _CONSEQUENCE.search(line)]
    if errors:
        return errors[-1].removeprefix("error: ")
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"no result, exit status {code}"


def _number(result: dict[str, Any] | None, path: str) -> float | None:
    """The number at a dotted path of the result."""
    value: Any = result
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return float(value) if isinstance(value, int | float) else None
