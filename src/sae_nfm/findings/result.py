"""`result.json`: what a study found, as its readers rely on it."""

import json
import math
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from sae_nfm.findings.statistics import Estimate
from sae_nfm.findings.summary import Summary
from sae_nfm.models.plant import Plant
from sae_nfm.store.store import write_atomically

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
    """Conditions, ratios, headlines and tests of an evaluation."""
    names = summary.names
    matched = [c for c in summary.conditions if c.baseline is not None]
    pairs = [(c.reconstruction, c.name) for c in matched if c.reconstruction is not None]
    replacing_nothing = ("clean", "identity")
    plain = [c.name for c in summary.conditions if c.baseline is None and c.name not in replacing_nothing]
    pairs += [(name, "sae") for name in plain if "sae" in plain and name != "sae"]
    others = [name for name in plain if name not in ("sae", "sae_nfm", "zero", "mean")]
    pairs += [("sae_nfm", name) for name in others if "sae_nfm" in plain]
    tests = summary.tests(pairs)
    return {
        "conditions": {name: summary.condition(name) for name in names},
        "noise_floor": summary.condition("identity")["kl"]["mean"] if "identity" in names else None,
        "ratios": {f"{a}/{b}": as_json(summary.ratio("kl", a, b)) for a, b in pairs},
        **_headlines(summary, pairs),
        "made_worse": {f"{t['a']} vs {t['b']}": {"fraction": t.pop("fraction_worse")} for t in tests},
        "tests": tests,
    }


def _headlines(summary: Summary, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    pathology: dict[str, dict[str, Any]] = {}
    for a, b in pairs:
        if b.endswith(f"({a})"):
            pathology.setdefault(a, {})[b.removesuffix(f"({a})")] = as_json(summary.ratio("kl", a, b))
    both, linear = "sae_nfm" in summary.names, "sae_linear" in summary.names
    return {
        "pathology": pathology,
        "pathology_change": {
            baseline: as_json(
                summary.ratio_difference(
                    "kl", ("sae_nfm", f"{baseline}(sae_nfm)"), ("sae", f"{baseline}(sae)")
                )
            )
            for baseline in pathology.get("sae_nfm", {})
            if baseline in pathology.get("sae", {})
        },
        "reduction": as_json(summary.reduction("kl", "sae_nfm", "sae")) if both else None,
        "mse_reduction": as_json(summary.reduction("mse", "sae_nfm", "sae")) if both else None,
        "marginal_interaction": {
            "absolute": as_json(summary.difference("kl", "sae_linear", "sae_nfm")),
            "share": as_json(summary.reduction("kl", "sae_nfm", "sae_linear")),
            "share_over_refit": as_json(summary.reduction("kl", "sae_nfm", "refit"))
            if "refit" in summary.names
            else None,
        }
        if both and linear
        else None,
        "share_of_codes_bound": {
            measure: as_json(summary.share(measure, "sae_nfm", "codes_bound", "sae"))
            for measure in ("kl", "mse")
        }
        if both and "codes_bound" in summary.names
        else None,
    }


def planted(summary: Summary, plant: Plant | None) -> dict[str, Any] | None:
    """What was planted, and the `share` that a model which knows it takes off KL(sae_linear): the truth.

    Where no interactions are planted the truth is 0: such a model takes off the linear part's own error.
    None where nothing is planted, or what it takes to know the truth was not spliced in.
    """
    if plant is None or not {"sae_planted", "sae_linear"} <= set(summary.names):
        return None
    share = Estimate(0.0, (0.0, 0.0))
    if plant.has_interactions:
        share = summary.reduction("kl", "sae_planted", "sae_linear")
    return {"kind": plant.kind, "share": as_json(share)}


def as_json(estimate: Estimate | None) -> dict[str, Any] | None:
    """An estimate as `{"value", "ci95"}`."""
    return None if estimate is None else {"value": estimate.value, "ci95": list(estimate.ci95)}


def environment(device: torch.device) -> dict[str, Any]:
    """What a number may depend on beside the configuration."""
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine()
    )
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in _PACKAGES},
        "device": f"{device.type}: {name}",
        "git": _git_revision(),
    }


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
    write_atomically(path, json.dumps(_finite(result), indent=1, allow_nan=False))
    return path


def _finite(value: Any) -> Any:
    """The same value with NaN and infinity as null, which JSON lacks."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
