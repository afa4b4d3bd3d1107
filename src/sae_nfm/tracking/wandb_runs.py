"""A study in Weights & Biases: a run for every stage that trains, and one for the evaluation."""

import logging
import os
import shlex
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any, Literal

import wandb
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from sae_nfm.store.files import WEIGHTS, write_atomically
from sae_nfm.store.store import fingerprint
from sae_nfm.tracking.trackers import Tracker
from sae_nfm.tracking.wandb_names import TABLE, columns, summary, table_rows, tags
from sae_nfm.tracking.wandb_run import Curves, WandbRun, end_service

log = logging.getLogger(__name__)
_ID, _FIGURE = "wandb_run_id", "kl_by_condition.png"
_GROUP, _MODE, _SWEEP = "WANDB_RUN_GROUP", "WANDB_MODE", "WANDB_SWEEP_ID"
_OF_THE_AGENT = (_SWEEP, "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH")


class WandbRuns(Tracker):
    """Sends curves, figures and the result to W&B, or keeps them for `wandb sync` where there is no API key.

    Runs are grouped by the sweep, and named by the job's folder, which says what was varied, and the stage.
    Nothing that
    goes wrong with W&B reaches the study.

    Args:
        folder: the study's run folder; W&B's own files go to `wandb/` in it.
        choices: the option taken for every config group.
        settings: the resolved configuration.
        given: keys that the command gives.
        project: of W&B.
        entity: user or team; None for the user's default.
        group: of the study's runs; None for the sweep's folder, and outside a sweep for the study's.
        tags: beside the model, the site, the experiment and the ablation.
        offline: whether to keep everything here, though there may be a key.
        weights: whether to upload the weights of what is trained, as artifacts.
        patience: seconds to wait at the end of a run for the server to take what is left.
    """

    def __init__(
        self,
        folder: Path,
        choices: Mapping[str, Any],
        settings: Mapping[str, Any],
        project: str,
        entity: str | None,
        group: str | None,
        tags: list[str],
        offline: bool,
        weights: bool,
        patience: float,
        given: Collection[str] = (),
    ) -> None:
        super().__init__(folder, choices, settings, given)
        self.project, self.entity, self.tags = project, entity, list(tags)
        self.weights, self.patience = weights, patience
        self._offline = True if offline else None  # None: not looked for a key yet
        # The run that a sweep's agent has made is that of the evaluation: W&B must not find it before.
        self._agent = {name: os.environ.pop(name) for name in _OF_THE_AGENT if name in os.environ}
        self.group = group or os.environ.get(_GROUP) or self._agent.get(_SWEEP) or folder.name
        self._to_sync = False

    @contextmanager
    def stage(self, name: str, artifact: Path, tokens_per_step: int) -> Iterator[Logger]:
        """Give the stage a run; a stage that was interrupted gets the run that it had."""
        run = WandbRun(self._open(name, self._id_of(artifact)) if rank_zero_only.rank == 0 else None)
        run.draw_over_tokens()
        try:
            yield Curves(run, tokens_per_step)
        except BaseException:
            run.finish(exit_code=1)
            raise
        if self.weights:
            run.keep(name, f"{name}-{artifact.stem}", artifact / WEIGHTS)
        run.finish()

    def result(self, result: Mapping[str, Any]) -> None:
        """Give the evaluation a run: chosen figures, the conditions' table, the report and `result.json`."""
        os.environ.update(self._agent)
        of_this_study = {"study": result["fingerprint"], "folder": str(self.folder.resolve())}
        run = WandbRun(self._open("evaluation", None if self._agent else fingerprint(of_this_study)))
        figure, report = self.folder / "figures" / _FIGURE, self.folder / "report.html"
        run.show(summary(result), TABLE, table_rows(result), figure, report)
        run.keep("result", f"result-{result['fingerprint']}", self.folder / "result.json")
        run.finish()
        if self._to_sync:
            print(f"W&B: wandb sync {shlex.quote(str(self.folder / 'wandb'))}")

    def _id_of(self, artifact: Path) -> str:
        """The id of the run that has the curves of an artifact; it stays with the artifact."""
        path = artifact / _ID
        if not path.exists():
            write_atomically(path, token_hex(4))
        return path.read_text()

    def _open(self, job_type: str, run_id: str | None) -> wandb.Run | None:
        """A new run, kept here if the server cannot be reached; None where even that fails."""
        if not self._is_offline():
            try:
                return self._init(job_type, run_id, None)
            except Exception as error:
                log.warning("W&B: no run (%s: %s); going on offline", type(error).__name__, error)
                self._offline = True
                end_service()
        try:
            return self._init(job_type, run_id, "offline")
        except Exception as error:
            log.warning("W&B: no run, not even offline (%s: %s)", type(error).__name__, error)
            return None

    def _init(self, job_type: str, run_id: str | None, mode: Literal["offline"] | None) -> wandb.Run:
        run = wandb.init(
            project=self.project,
            entity=self.entity,
            group=self.group,
            job_type=job_type,
            name=f"{self.folder.name} {job_type}",
            tags=tags(self.settings, self.choices, self.tags),
            config=columns(self.settings, self.choices, self.given),
            dir=self.folder,
            id=run_id,
            resume="allow",
            reinit="create_new",
            mode=mode,
            settings=wandb.Settings(silent=True, finish_timeout=self.patience, finish_timeout_raises=True),
        )
        self._to_sync = self._to_sync or run.offline
        if not run.offline:  # what is kept for later is told at the end
            log.info("W&B run of %s: %s", job_type, run.url)
        return run

    def _is_offline(self) -> bool:
        """Whether nothing goes to the server, by the user's wish or for lack of an API key."""
        if self._offline is None:
            self._offline = _MODE not in os.environ and not _has_key()
            if self._offline:
                log.warning("W&B: no API key, so runs are kept for `wandb sync` (to log in: `wandb login`)")
        return self._offline


def _has_key() -> bool:
    try:
        return wandb.login(prompt=False, verify=False)
    except Exception as error:
        log.warning("W&B: %s: %s", type(error).__name__, error)
        return False
