"""What frames a sweep: names of the jobs' folders before, and a table of what became of them after."""

import atexit
import sys
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from sae_nfm.launch.jobs import RECORD, outcomes
from sae_nfm.settings.schema import register
from sae_nfm.store.processes import raise_when_terminated

register()  # here, because a launcher's process names the job's folder before it calls anything of ours


class Sweep(Callback):
    """Hydra calls it at the start and at the end of a multirun; in a single run it does nothing."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Name the jobs by what varies between them, and see to it that the table comes whatever happens."""
        self.folder = Path(config.hydra.sweep.dir)
        keys = ",".join(f'"{key}"' for key in _constant_keys(config))
        config.hydra.overrides.hydra.append(f"hydra.job.config.override_dirname.exclude_keys=[{keys}]")
        for record in self.folder.rglob(RECORD):
            record.unlink()
        raise_when_terminated()
        atexit.register(self.show)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table, and exit with status 1 if a job failed."""
        atexit.unregister(self.show)
        self.show()
        if not all(outcome.succeeded for _, outcome in outcomes(self.folder)):
            sys.exit(1)

    def show(self) -> None:
        """Print what became of the jobs, and how to go on."""
        found = list(outcomes(self.folder))
        if not found:
            return
        table = Table(Column("job", overflow="fold"), "", "seconds", "why")
        for name, outcome in found:
            colour = "green" if outcome.succeeded else "red"
            seconds = f"{outcome.seconds:.0f}" if outcome.seconds else ""
            table.add_row(name, f"[{colour}]{outcome.state}[/]", seconds, escape(outcome.reason))
        console = Console()
        console.print(f"\n{self.folder}", soft_wrap=True)
        console.print(table)
        if not all(outcome.succeeded for _, outcome in found):
            console.print(
                f"run what is missing: the same command with hydra.sweep.dir={self.folder}", soft_wrap=True
            )
        console.print(f"compare: python -m sae_nfm.compare {self.folder}", soft_wrap=True)
        if any(self.folder.glob("*/wandb/offline-run-*")):
            console.print(f"W&B: wandb sync {self.folder}/*/wandb", soft_wrap=True)


def _constant_keys(config: DictConfig) -> list[str]:
    """Settings of the command line that are the same in all jobs."""
    given = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
    last = {override.get_key_element(): override for override in given}.values()
    varied = {str(key).partition("@")[0] for key in config.hydra.sweeper.get("params") or {}}
    # Hydra leaves out a group under all its packages, so one that varies under any of them has to stay.
    varied |= {override.key_or_group for override in last if override.is_sweep_override()}
    return [override.key_or_group for override in last if override.key_or_group not in varied]
