"""Hydra finds launchers in packages of this name: `hydra/launcher=together` is `sae_nfm.launch.together`."""

from collections.abc import Sequence

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
        """Start the process of the first jobs."""
        from sae_nfm.launch.together import Processes  # here: Hydra imports its plugins for every command

        self.processes = Processes(config, hydra_context, self.gigabytes)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs to their end."""
        return self.processes.launch([(initial_job_idx + i, [*o]) for i, o in enumerate(job_overrides)])
