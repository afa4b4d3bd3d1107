"""The attribution of a study that is finished."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from lightning import seed_everything
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sae_nfm import config, progress
from sae_nfm.findings import record, result
from sae_nfm.interop.files import Settings
from sae_nfm.interop.runs import RESULT
from sae_nfm.launch.errors import explained
from sae_nfm.recipes.curriculum import HOW
from sae_nfm.report.html import write_report
from sae_nfm.settings.schema import CONFIG_DIR, plain, register
from sae_nfm.settings.values import NotAllowed

GROUPS = ("attribution", "trainer")
"""What of a study can be given anew, of its trainer where it runs: what was trained does not depend on it."""


def attribute(run: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Attribute the gain of a finished study's NFM, and write its result and its report anew.

    What the study trained is found among its artifacts, and made again where it is gone.

    Args:
        run: the study's folder.
        overrides: of `attribution`, `attribution.…`, `trainer`, `trainer.…` and `artifacts`.

    Returns:
        What `result.json` holds.

    Raises:
        NotAllowed: the folder is none of a finished study, or a setting is not allowed.
        ValueError: the overrides do not compose, for another reason.
    """
    if not (run / RESULT).is_file() or not (run / "config.yaml").is_file():
        raise NotAllowed("RUN", str(run), f"folders of finished studies, with {RESULT} and config.yaml")
    found = dict(Settings(run / RESULT).all)
    cfg = config.check(_settings(run, overrides))
    ranks = config.ranks(cfg)
    seed_everything(cfg.seed, verbose=False)
    workshop = config.workshop(cfg, config.tracker(cfg, run, {}), ranks)
    stages = [*config.training(workshop), *config.attribution(cfg, workshop, run)]
    found["attribution"] = None
    for number, stage in enumerate(stages, 1):
        with progress.stage(number, len(stages), stage.name):
            made = stage.run(workshop)
    found = record.merged(found, made)
    found["settings"] = dict(found["settings"]) | {"attribution": plain(cfg.attribution)}
    if ranks.is_first:
        result.write(found, run)
        print(f"report: {write_report(found, run)}")
    return found


def _settings(run: Path, overrides: Sequence[str]) -> DictConfig:
    """Those of the study, with the attribution's."""
    register()
    keys = [override.partition("=")[0].lstrip("+~") for override in overrides]
    if refused := [key for key in keys if key.partition(".")[0] not in (*GROUPS, "artifacts")]:
        because = "what the study trained and evaluated is what it is"
        raise NotAllowed(refused[0], "given anew", [*GROUPS, "artifacts"], because)
    chosen = [] if "attribution" in keys else ["attribution=pairs"]
    try:
        with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
            given = compose("study", [*chosen, *overrides])
    except (HydraException, OmegaConfBaseException) as error:
        raise explained(error, CONFIG_DIR, overrides) from error
    if given.attribution is None:
        raise NotAllowed("attribution", None, ["pairs", "features"])
    cfg = OmegaConf.load(run / "config.yaml")
    assert isinstance(cfg, DictConfig)
    named = {"attribution", *(key.partition(".")[0] for key in keys)}
    if "trainer" in named:
        given.trainer = _elsewhere(plain(cfg.trainer), plain(given.trainer), keys)
    added = {str(key) for key in given} - {str(key) for key in cfg}  # since the study was run
    for key in named | added:
        cfg[key] = OmegaConf.masked_copy(given, key)[key]
    cfg.logger = None
    return cfg


def _elsewhere(trainer: dict[str, Any], given: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """The study's trainer where another runs; with its own precision, or its dictionaries would be made anew.

    Args:
        trainer: of the study.
        given: the other.
        keys: that were named.
    """
    own = {name: value for name, value in trainer.items() if name in HOW}
    for name in HOW:
        if f"trainer.{name}" in keys and given.get(name) != own.get(name):
            because = "what the study trained would be trained anew"
            raise NotAllowed(f"trainer.{name}", given.get(name), f"its own, {own.get(name, 'none')}", because)
    return {name: value for name, value in given.items() if name not in HOW} | own
