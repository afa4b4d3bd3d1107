"""One study: its stages in order, and what they found."""

import json
import logging
import time
from pathlib import Path
from typing import Any

from lightning import seed_everything
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from sae_nfm import config, progress
from sae_nfm.findings import record, result
from sae_nfm.launch.jobs import PLAN
from sae_nfm.planning.plan import plan_of, print_plan
from sae_nfm.planning.workshop import PlannedWorkshop
from sae_nfm.report.html import write_report
from sae_nfm.report.tables import print_finding, print_ratios
from sae_nfm.settings.schema import plain
from sae_nfm.store.company import ALONE, Company
from sae_nfm.store.files import write_atomically
from sae_nfm.store.store import fingerprint
from sae_nfm.tracking.trackers import Tracker

log = logging.getLogger(__name__)


def run(cfg: DictConfig, folder: Path, origin: dict[str, Any], company: Company = ALONE) -> dict[str, Any]:
    """Make or reuse what a study needs, evaluate it, and write the result and the report.

    Args:
        cfg: the composed configuration.
        folder: where results are written.
        origin: `command` and `choices`, what the configuration was composed from.
        company: the studies of this process.

    Returns:
        What `result.json` holds; with `plan=true` what `plan.json` holds.
    """
    started = time.perf_counter()
    cfg = config.check(cfg)
    rank_zero_only(write_atomically)(folder / "config.yaml", OmegaConf.to_yaml(cfg))
    ranks = config.ranks(cfg)
    settings = fingerprint({"settings": plain(cfg)})
    log.info("process %d of %d, settings %s", ranks.rank + 1, ranks.world_size, settings)
    ranks.check_equal(settings)
    seed_everything(cfg.seed, verbose=False)
    tracker = config.tracker(cfg, folder, origin["choices"], origin["command"])
    workshop = config.workshop(cfg, tracker, ranks, company)
    stages = config.stages(cfg, workshop, folder)
    if cfg.plan:
        plan = plan_of(stages, PlannedWorkshop.of(workshop))
        if ranks.is_first:
            write_atomically(folder / PLAN, json.dumps(plan.as_json(), indent=1))
            print_plan(plan)
        return plan.as_json()
    ranks.from_first(workshop.activations.check_finite)
    found = record.header(cfg, origin, workshop.activations.lm)
    for number, stage in enumerate(stages, 1):
        with progress.stage(number, len(stages), stage.name):
            found = record.merged(found, stage.run(workshop))
    found = record.merged(found, record.footer(cfg, workshop, time.perf_counter() - started))
    if ranks.is_first:
        report(found, folder, tracker, company)
    return found


def report(found: dict[str, Any], folder: Path, tracker: Tracker, company: Company = ALONE) -> None:
    """Write the result, show it, and hand it on."""
    path = result.write(found, folder)
    print_ratios(found)
    print_finding(found)
    try:
        page = company.aside(write_report, found, folder)
        print(f"report: {page}")
    except OSError as error:  # as of a full disk: what was found is not lost with its page
        log.warning("there is no report of %s: %s", path, error)
    tracker.result(found)
