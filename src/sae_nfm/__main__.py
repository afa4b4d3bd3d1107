"""`python -m sae_nfm [overrides]`: one study, or a sweep with `-m`."""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from sae_nfm.launch.errors import errors_of_a_study, told_briefly
from sae_nfm.launch.job import run_job
from sae_nfm.settings.schema import CONFIG_DIR, register
from sae_nfm.store.processes import end_with_parent, end_without_looking_back


@hydra.main(config_path=CONFIG_DIR, config_name="study", version_base="1.3")
def _study(cfg: DictConfig) -> float | None:
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return run_job(cfg)
    with errors_of_a_study():
        from sae_nfm.launch.single import (
            run_study,  # here, so that what only waits for a sweep's jobs needs no torch
        )

        return run_study(cfg)


def main() -> None:
    """Entry point of the command line."""
    end_with_parent()
    end_without_looking_back()
    register()
    told_briefly(_study, CONFIG_DIR)()


if __name__ == "__main__":
    sys.exit(main())
