"""A study of this process, stage by stage."""

from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from sae_nfm import config
from sae_nfm.launch.composed import composed
from sae_nfm.recipes.workshop import Workshop
from sae_nfm.stages.stage import Stage
from sae_nfm.stages.train import Train
from sae_nfm.tracking.trackers import Tracker


class Study(NamedTuple):
    """What a study is made of, before any stage has run."""

    cfg: DictConfig
    workshop: Workshop
    stages: list[Stage]

    def train(self) -> None:
        """Make its dictionaries."""
        for stage in self.stages:
            if isinstance(stage, Train):
                stage.run(self.workshop)


def study(overrides: list[str], folder: Path) -> Study:
    """The study of a command's overrides, which writes to a folder."""
    config.register()
    cfg = config.check(composed(overrides)[0])
    workshop = config.workshop(cfg, Tracker(folder, {}, {}), config.ranks(cfg))
    return Study(cfg, workshop, config.stages(cfg, workshop, folder))
