"""A study's configuration from its overrides, where Hydra does not run the program."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.conf import HydraConf
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sae_nfm.launch.errors import explained
from sae_nfm.settings.schema import CONFIG_DIR, given
from sae_nfm.settings.values import NotAllowed


def composed(overrides: Sequence[str]) -> tuple[DictConfig, HydraConf]:
    """The study's settings, and Hydra's.

    Args:
        overrides: as on the command line.

    Raises:
        ValueError: the overrides do not compose; where a key or a value is to blame it is a `NotAllowed`.
    """
    try:
        with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
            cfg = compose("study", list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise explained(error, CONFIG_DIR, overrides) from error
    return parted(cfg)


def parted(cfg: DictConfig) -> tuple[DictConfig, HydraConf]:
    """The study's settings, and Hydra's, of what Hydra composed."""
    hydra = cfg.hydra
    OmegaConf.set_readonly(hydra, False)
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    return cfg, hydra


def origin(hydra: HydraConf, command: str | None = None) -> dict[str, Any]:
    """What a configuration was composed from: `command` and `choices`.

    Args:
        hydra: Hydra's settings.
        command: None is the command line that gives the same.
    """
    choices = {name: choice for name, choice in hydra.runtime.choices.items() if "hydra" not in name}
    line = shlex.join(["python", "-m", "sae_nfm", *given(hydra.overrides.task)])
    return {"command": command or line, "choices": choices}


def check_one_process(trainer: Mapping[str, Any], because: str) -> None:
    """Raise a `NotAllowed` where a trainer asks for more than the process that there is."""
    for setting in ("devices", "num_nodes"):
        if (value := trainer.get(setting, 1)) != 1:
            raise NotAllowed(f"trainer.{setting}", value, "1", because)
