"""One study: checked before anything is made, then its stages in order, and what they found."""

import json
import logging
import time
from pathlib import Path
from typing import Any

from lightning import seed_everything
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from sae_nfm import config, progress
from sae_nfm.findings import record
from sae_nfm.launch.jobs import PLAN
from sae_nfm.launch.reported import report
from sae_nfm.planning.plan import plan_of, print_plan
from sae_nfm.planning.workshop import PlannedWorkshop
from sae_nfm.recipes.activations import check_model
from sae_nfm.settings.schema import plain
from sae_nfm.store.company import ALONE, Company
from sae_nfm.store.files import write_atomically
from sae_nfm.store.store import fingerprint

log = logging.getLogger(__name__)


class Study:
    """A study that can run: its settings are allowed, its model is there, and nothing is made yet.

    Args:
        cfg: the composed configuration.
        folder: where results are written.
        origin: `command` and `choices`, what the configuration was composed from.
        company: the studies of this process.

    Raises:
        ValueError: it cannot run; a `NotAllowed` where a setting is to blame.
    """

    def __init__(
        self, cfg: DictConfig, folder: Path, origin: dict[str, Any], company: Company = ALONE
    ) -> None:
        started = time.perf_counter()
        self.cfg = cfg = config.check(cfg)
        self.folder, self.origin, self.company = folder, origin, company
        rank_zero_only(write_atomically)(folder / "config.yaml", OmegaConf.to_yaml(cfg))
        self.ranks = ranks = config.ranks(cfg)
        settings = fingerprint({"settings": plain(cfg)})
        log.info("process %d of %d, settings %s", ranks.rank + 1, ranks.world_size, settings)
        ranks.check_equal(settings)
        seed_everything(cfg.seed, verbose=False)
        self.tracker = config.tracker(cfg, folder, origin["choices"], origin["command"])
        self.workshop = config.workshop(cfg, self.tracker, ranks, company)
        self.stages = config.stages(cfg, self.workshop, folder)
        self._seconds = time.perf_counter() - started

    def run(self) -> dict[str, Any]:
        """Make or reuse what the study needs, evaluate it, and write the result and the report.

        Returns:
            What `result.json` holds; with `plan=true` what `plan.json` holds.
        """
        started = time.perf_counter() - self._seconds
        seed_everything(self.cfg.seed, verbose=False)  # others may have been prepared since
        if self.cfg.plan:
            plan = plan_of(self.stages, PlannedWorkshop.of(self.workshop))
            if self.ranks.is_first:
                write_atomically(self.folder / PLAN, json.dumps(plan.as_json(), indent=1))
                print_plan(plan)
            return plan.as_json()
        self.ranks.from_first(lambda: check_model(self.workshop.activations))
        found = record.header(self.cfg, self.origin, self.workshop.activations.lm)
        for number, stage in enumerate(self.stages, 1):
            with progress.stage(number, len(self.stages), stage.name):
                found = record.merged(found, stage.run(self.workshop))
        found = record.merged(found, record.footer(self.cfg, self.workshop, time.perf_counter() - started))
        if self.ranks.is_first:
            report(found, self.folder, self.tracker, self.company)
        return found
