"""A single study, from what Hydra composed to its result."""

import logging
import shlex
from pathlib import Path

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from sae_nfm import progress
from sae_nfm.launch import study
from sae_nfm.launch.quiet import quiet
from sae_nfm.settings.schema import given
from sae_nfm.store.company import ALONE, Company


def run_study(cfg: DictConfig) -> None:
    """Run the study that Hydra composed, in its output folder."""
    _have_the_first_rank_speak()
    with quiet():
        run_composed(cfg, HydraConfig.get())


def run_composed(cfg: DictConfig, hydra: HydraConf, company: Company = ALONE) -> None:
    """Run a study.

    Args:
        cfg: its configuration.
        hydra: Hydra's own.
        company: the studies of this process.
    """
    command = shlex.join(["python", "-m", "sae_nfm", *given(hydra.overrides.task)])
    choices = {name: choice for name, choice in hydra.runtime.choices.items() if "hydra" not in name}
    study.run(cfg, Path(hydra.runtime.output_dir), {"command": command, "choices": choices}, company)


def _have_the_first_rank_speak() -> None:
    """Ranks but the first speak to their files only."""
    if rank_zero_only.rank:
        progress.silence()
        for handler in logging.getLogger().handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.ERROR)
