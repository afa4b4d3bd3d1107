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

from sae_nfm.launch.errors import BRIEF
from sae_nfm.launch.jobs import (
    DONE,
    FAILED,
    PLAN,
    REPORT,
    RESULT,
    REUSED,
    UNFINISHED,
    Job,
    Outcome,
    same_study,
)
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
    outcome = finished(job, cfg)
    if outcome is None:
        job.record(Outcome(UNFINISHED))
        os.environ.setdefault("WANDB_RUN_GROUP", Path(hydra.sweep.dir).name)  # W&B shows a sweep as a group
        log.info("%s: started; it prints to %s", job.folder.name, job.output)
        outcome = _run(_command(hydra, job), job, PLAN if cfg.plan else RESULT)
    job.record(outcome)
    log.info("%s: %s %s", job.folder.name, outcome.state, outcome.reason and f"({outcome.reason})")
    return None if outcome.state == FAILED else number(job.result(), cfg.optimize)


def finished(job: Job, cfg: DictConfig) -> Outcome | None:
    """The outcome of a job whose folder holds a result; None where it has to be run."""
    result = job.result()
    if result is None:
        return None
    if same_study(result["settings"], plain(cfg)):
        return _with_report(job, result)
    return Outcome(FAILED, "its folder holds the result of another study: delete it or name another")


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
    directories = [f"--config-dir={folder}" for folder in _config_dirs(hydra)]
    name = f"--config-name={hydra.job.config_name}"
    return [*(sys.executable, "-m", "sae_nfm", name), *directories, *_own_overrides(hydra, job)]


def _config_dirs(hydra: HydraConf) -> list[str]:
    """Folders of the user's own configuration."""
    sources = hydra.runtime.config_sources
    return [source.path for source in sources if source.provider == "command-line"]


def _own_overrides(hydra: HydraConf, job: Job) -> list[str]:
    """What makes a study of its own of the job."""
    folder = str(job.folder).replace("'", "\\'")
    own = ["hydra.mode=RUN", f"hydra.run.dir='{folder}'", "hydra.output_subdir=null"]
    if job.rank:
        own.append(f"hydra.job.name=rank_{job.rank}")
    passed_on = [override for override in hydra.overrides.hydra if override.startswith(_PASSED_ON)]
    return [*given(hydra.overrides.task), *passed_on, *own]


def _run(command: list[str], job: Job, leaves: str) -> Outcome:
    """Run the command, which leaves a file, to its end."""
    started = time.perf_counter()
    with job.output.open("ab") as output:
        begin = output.tell()
        code = waited_for(child_process(command, output), job)
    seconds = time.perf_counter() - started
    if code == 0 and (job.rank or job.left(leaves) is not None):
        return Outcome(DONE, seconds=seconds)
    job.fail(reason_of(code, job.output, begin))
    return Outcome(FAILED, job.failure() or "", seconds)


def child_process(
    command: list[str], output: IO[bytes], reads: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """Start a process that ends with this one.

    Args:
        command: of the process.
        output: where it prints.
        reads: what it has as its input.
    """
    environment = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
    environment |= {ENDS_WITH: str(os.getpid()), BRIEF: "1"}  # raised, an error ends all jobs of a process
    return subprocess.Popen(
        command, stdin=reads, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
    )


def waited_for(child: subprocess.Popen[bytes], job: Job) -> int:
    """The exit status of a job's process, once nothing of it is left."""
    try:
        while child.poll() is None and job.failure() is None:
            with suppress(subprocess.TimeoutExpired):
                child.wait(1.0)
    finally:
        end(child)
    return child.returncode


def end(child: subprocess.Popen[bytes]) -> None:
    """End the process, and what is left of its group: ranks that have no first any more."""
    with suppress(ProcessLookupError):
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                child.wait(_GRACE)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def reason_of(code: int, output: Path, begin: int) -> str:
    """The last line of the output that names an error, else what the exit status says."""
    with output.open("rb") as file:
        file.seek(max(begin, output.stat().st_size - _TAIL))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    errors = [line for line in lines if _ERROR.fullmatch(line) and not _CONSEQUENCE.search(line)]
    if errors:
        return errors[-1].removeprefix("error: ")
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"no result, exit status {code}"


def number(result: dict[str, Any] | None, path: str) -> float | None:
    """The number at a dotted path of the result."""
    value: Any = result
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return float(value) if isinstance(value, int | float) else None
