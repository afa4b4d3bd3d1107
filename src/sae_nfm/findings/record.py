"""What `result.json` says of a study beside what its stages found."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from sae_nfm.findings.result import SCHEMA, environment
from sae_nfm.findings.warnings import judged
from sae_nfm.lm.model import LanguageModel
from sae_nfm.recipes.workshop import Workshop
from sae_nfm.settings.schema import plain
from sae_nfm.store.store import fingerprint


def header(cfg: DictConfig, origin: Mapping[str, Any], lm: LanguageModel) -> dict[str, Any]:
    """Which study it is: of what model, where, on what text."""
    keys = ("path", "dtype", "n_layers", "d_model", "d_vocab")
    return {
        "schema": SCHEMA,
        "name": cfg.name,
        "seed": cfg.seed,
        "fingerprint": fingerprint({"settings": plain(cfg)}),
        **origin,
        "lm": {key: getattr(lm, key) for key in keys},
        "site": {"layer": cfg.layer, "hook": cfg.hook},
        "corpus": plain(cfg.corpus),
        "context": cfg.context,
    }


def footer(cfg: DictConfig, workshop: Workshop, wall_s: float) -> dict[str, Any]:
    """What was made for it and how, what it warns of, and what its numbers may depend on."""
    timing = {"sae_tokens_per_s": None, "nfm_tokens_per_s": None, "wall_s": wall_s}
    return {
        "validation": workshop.metrics,
        "curves": judged(workshop.curves),
        "artifacts": workshop.artifacts,
        "warnings": workshop.warnings,
        "timing": timing,
        "environment": environment(workshop.activations.lm.device),
        "settings": plain(cfg),
    }


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Two parts of a result as one; entries that both have are merged, and null gives way to anything."""
    out = dict(first)
    for name, value in second.items():
        before = out.get(name)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            out[name] = merged(before, value)
        elif value is not None or name not in out:
            out[name] = value
    return out
