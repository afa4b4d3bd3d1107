"""A study's configuration from its overrides, where Hydra does not run the program."""

from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from hydra.conf import HydraConf
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sae_nfm.launch.errors import explained
from sae_nfm.settings.schema import CONFIG_DIR


def composed(overrides: Sequence[str], name: str = "study") -> tuple[DictConfig, HydraConf]:
    """The study's settings, and Hydra's.

    Args:
        overrides: as on the command line.
        name: of the primary configuration.

    Raises:
        ValueError: the overrides do not compose; where a key or a value is to blame it is a `NotAllowed`.
    """
    try:
        with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
            cfg = compose(name, list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise explained(error, CONFIG_DIR, overrides) from error
    hydra = cfg.hydra
    OmegaConf.set_readonly(hydra, False)
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    return cfg, hydra
