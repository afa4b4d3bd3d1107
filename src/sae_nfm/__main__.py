"""`python -m sae_nfm [overrides]`: one study, or a sweep with `-m`."""

import logging
import shlex
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from sae_nfm import config
from sae_nfm.errors import told_briefly
from sae_nfm.launch import run_job
from sae_nfm.processes import end_with_parent
from sae_nfm.store import write_atomically
from sae_nfm.study import Study

_HERE = Path(__file__).resolve().parent
CONFIG_DIR = str(_HERE / "conf" if (_HERE / "conf").is_dir() else _HERE.parents[1] / "conf")


@hydra.main(config_path=CONFIG_DIR, config_name="study", version_base="1.3")
def _study(cfg: DictConfig) -> float | None:
    hydra_config = HydraConfig.get()
    if hydra_config.mode == RunMode.MULTIRUN:
        return run_job(cfg)
    folder = Path(hydra_config.runtime.output_dir)
    command = shlex.join(["python", "-m", "sae_nfm", *hydra_config.overrides.task])
    choices = {name: choice for name, choice in hydra_config.runtime.choices.items() if "hydra" not in name}
    rank_zero_only(write_atomically)(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    if rank_zero_only.rank:
        _keep_off_the_terminal()
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    Study(cfg, folder, {"command": command, "choices": choices}).run()


def _keep_off_the_terminal() -> None:
    """Leave what a rank other than the first has to say to its log file, errors apart."""
    for handler in logging.getLogger().handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.ERROR)


def main() -> None:
    """Entry point of the command line."""
    end_with_parent()
    config.register()
    told_briefly(_study, CONFIG_DIR)()


if __name__ == "__main__":
    sys.exit(main())
