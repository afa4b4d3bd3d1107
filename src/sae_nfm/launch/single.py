"""A single study, from what Hydra composed to its result."""

import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from sae_nfm import progress
from sae_nfm.launch.composed import origin
from sae_nfm.launch.quiet import quiet
from sae_nfm.launch.study import Study


def run_study(cfg: DictConfig) -> None:
    """Run the study that Hydra composed, in its output folder."""
    _have_the_first_rank_speak()
    hydra = HydraConfig.get()
    with quiet():
        Study(cfg, Path(hydra.runtime.output_dir), origin(hydra)).run()


def _have_the_first_rank_speak() -> None:
    """Ranks but the first speak to their files only."""
    if rank_zero_only.rank:
        progress.silence()
        for handler in logging.getLogger().handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.ERROR)
