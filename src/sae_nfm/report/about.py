"""The last part of a report: how to repeat the study, what it made, and with which settings."""

from collections.abc import Mapping
from typing import Any

from sae_nfm.report.page import Html, details, flatten, join, key_values, stacked, tag

_TERMS = {
    "KL": "KL(clean‖spliced) = Σ P (log P - log Q) over the vocabulary, in nats per token position: P from "
    "the clean run, Q from the run whose activation was replaced.",
    "95% interval": "Jackknife over documents: tokens of one document are not independent.",
    "ε-random": "The activation plus a random vector as long as the reconstruction's own error there.",
    "÷ baseline": "Mean KL of the reconstruction over that of its baseline: 1 means that the error does as "
    "much damage as the baseline of the same size.",
    "CE increase": "Cross-entropy of the next token minus that of the clean run, nats/token.",
    "top-1": "Share of positions at which the most likely token stays the same.",
    "residual explained": "1 - Σ‖r - r̂‖² / Σ‖r‖², of the SAE's residual r = x - x̂ by what is added to x̂: the "
    "reduction of the squared error.",
}


def about_part(result: Mapping[str, Any]) -> Html:
    """How to repeat it, the artifacts, and what else the result records."""
    terms = [part for term, meaning in _TERMS.items() for part in (tag("dt", term), tag("dd", meaning))]
    parts = ("lm", "site", "corpus", "sae", "nfm", "evaluation", "timing")
    measured = flatten({part: result[part] for part in parts if isinstance(result.get(part), Mapping)})
    settings = (result.get("choices") or {}) | flatten(result.get("settings") or {})
    command = str(result.get("command") or "python -m sae_nfm")
    fingerprint = f"Fingerprint of the study: {result.get('fingerprint') or 'not recorded'}."
    return join(
        [
            tag("h2", "How to repeat it"),
            tag("pre", tag("code", command)),
            tag("p", fingerprint, class_="note"),
            _artifacts(result),
            details("How to read this", tag("dl", *terms)),
            details("What was studied", key_values(measured)),
            details("Settings", key_values(settings)),
            details("Environment", key_values(flatten(result.get("environment") or {}))),
        ]
    )


def _artifacts(result: Mapping[str, Any]) -> Html:
    """Where what the study made or reused lies, by the names that its settings give."""
    made = result.get("artifacts") or {}
    if not made:
        return Html()
    columns = ("kind", "fingerprint", "path")
    rows = [
        ("artifact", tag("span", name), [tag("code", str(one.get(key) or "–")) for key in columns])
        for name, one in made.items()
    ]
    return join([tag("h3", "Artifacts by name"), stacked(("name", *columns), rows)])
