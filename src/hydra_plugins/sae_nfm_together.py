"""Hydra finds launchers in packages of this name: `hydra/launcher=together` is `sae_nfm.launch.together`."""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class Together(Launcher):
    """Runs the jobs of a sweep that share model, text and site in one process.

    Args:
        gigabytes: that they may take at the same time, beside the model; None is most of what is free.
    """

    def __init__(self, gigabytes: float | None) -> None:
        self.gigabytes = gigabytes

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what jobs are composed with."""
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs to their end."""
        from sae_nfm.launch.together import launch  # here: Hydra imports its plugins for every command

        jobs: list[tuple[int, list[Any]]] = [(initial_job_idx + i, [*o]) for i, o in enumerate(job_overrides)]
        return launch(jobs, self.config, self.hydra_context, self.gigabytes)
