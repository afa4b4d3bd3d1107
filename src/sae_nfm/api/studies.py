"""`study`: what `python -m sae_nfm` does, from Python."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from lightning.pytorch.utilities.seed import isolate_rng
from omegaconf import DictConfig

from sae_nfm.launch.composed import check_one_process, composed, origin
from sae_nfm.launch.quiet import quiet
from sae_nfm.launch.study import Study
from sae_nfm.settings.schema import register
from sae_nfm.settings.values import NotAllowed


def study(overrides: Sequence[str] = (), folder: str | Path | None = None) -> dict[str, Any]:
    """Run a study in this process, print its ratio table, and return what its `result.json` holds.

    All is as on the command line, but that there is no `study.log`: what is logged goes where the caller's
    own logging sends it. Random state and environment are the caller's own again afterwards.

    Args:
        overrides: settings as on the command line.
        folder: where the result, the report and the figures go, for `load`; None is a folder below `runs/`
            that is named after the time.

    Raises:
        NotAllowed: a setting is not allowed, or asks for more than one process.
        ValueError: the overrides do not compose, for another reason.

    Examples:
        >>> result = sae_nfm.study(
        ...     ["corpus=text", "corpus.path=text.txt", "sae.d_sae=64", "sae.k=4", "train_tokens=8192"]
        ...     + ["pool_tokens=8192", "validation_tokens=2000", "eval_tokens=2000"]
        ...     + ["evaluation.baselines=[eps]"],
        ...     folder="runs/first",
        ... )  # doctest: +ELLIPSIS
        study: KL(clean‖spliced), nats/token, 95% intervals over documents...
        report: runs/first/report.html
        >>> result["sae"]["l0"]
        4.0
        >>> sorted(result["reduction"])
        ['ci95', 'value']
    """
    register()
    with _callers_state_kept():
        cfg, hydra = _composed(overrides)
        folder = Path(hydra.run.dir if folder is None else folder)
        folder.mkdir(parents=True, exist_ok=True)
        command = f"sae_nfm.study({list(overrides)!r})"
        with quiet():
            return Study(cfg, folder, origin(hydra, command)).run()


def _composed(overrides: Sequence[str]) -> tuple[DictConfig, HydraConf]:
    """The study's settings, and Hydra's; of one study, in one process."""
    cfg, hydra = composed(overrides)
    if hydra.mode == RunMode.MULTIRUN:
        because = "a sweep is many studies, each of which is a process of its own"
        raise NotAllowed("hydra.mode", "MULTIRUN", "RUN; `python -m sae_nfm -m` runs sweeps", because)
    check_one_process(cfg.trainer, "this process is one; `python -m sae_nfm` starts several")
    return cfg, hydra


@contextmanager
def _callers_state_kept() -> Iterator[None]:
    """Random state, environment and Hydra's one global are afterwards what they were."""
    environment, hydra = dict(os.environ), GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with isolate_rng():
            yield
    finally:
        GlobalHydra.instance().hydra = hydra
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
