"""`result.json`: what a study found, as its readers rely on it."""

import json
import math
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from sae_nfm.findings.comparisons import comparisons
from sae_nfm.findings.comparisons import planted as planted
from sae_nfm.findings.entries import entries
from sae_nfm.findings.spread import spread
from sae_nfm.findings.summary import Summary
from sae_nfm.store.files import write_atomically

SCHEMA = 1
_PACKAGES = (
    "sae-nfm",
    "torch",
    "lightning",
    "transformer-lens",
    "transformers",
    "hydra-core",
    "numpy",
    "scipy",
)


def findings(summary: Summary) -> dict[str, Any]:
    """Conditions, ratios, headlines and tests of an evaluation, and how evenly differences are spread."""
    return {
        "positions": int(summary.tokens.sum()),
        "documents": len(summary.tokens),
        "conditions": entries(summary),
        **comparisons(summary),
        **spread(summary),
    }


def environment(device: torch.device) -> dict[str, Any]:
    """What a number may depend on beside the configuration."""
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine()
    )
    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
        "device": f"{device.type}: {name}",
        "git": _git_revision(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a source tree on the path, say; no reason to lose a finished study
        return "not installed"


def _git_revision() -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def write(result: Mapping[str, Any], folder: Path) -> Path:
    """Write `result.json` into a run folder, whole or not at all."""
    path = folder / "result.json"
    write_atomically(path, json.dumps(finite(result), indent=1, allow_nan=False))
    return path


def finite(value: Any) -> Any:
    """The same value with NaN and infinity as null, which JSON lacks."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
