"""What a study found: written, shown, and handed on."""

import logging
from pathlib import Path
from typing import Any

from sae_nfm.findings import result
from sae_nfm.report.html import write_report
from sae_nfm.report.tables import print_finding, print_ratios
from sae_nfm.store.company import Company
from sae_nfm.tracking.trackers import Tracker

log = logging.getLogger(__name__)


def report(found: dict[str, Any], folder: Path, tracker: Tracker, company: Company) -> None:
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
