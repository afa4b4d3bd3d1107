"""What W&B is told of a study, under names that stay: columns, tags, summary and table."""

from collections.abc import Mapping
from typing import Any

from sae_nfm.report.estimates import condition_kl, estimate, lookup, number
from sae_nfm.report.page import flatten
from sae_nfm.report.tables import condition_rows

_OF_CONDITIONS = ("ce_increase", "top1_agreement", "l2", "mse", "cosine")
_HEADLINES = {
    "reduction": ("reduction",),
    "mse_reduction": ("mse_reduction",),
    "marginal_interaction": ("marginal_interaction", "share"),
    "marginal_interaction/absolute": ("marginal_interaction", "absolute"),
    "share_of_codes_bound": ("share_of_codes_bound", "kl"),
    "pathology_change": ("pathology_change", "eps"),
}
_COUNTS = ("positions", "documents", "measurements")
_PARTS = ("sae", "nfm", "timing")
TABLE = (
    "condition",
    "role",
    "reconstruction",
    "baseline",
    "kl",
    "kl_ci_low",
    "kl_ci_high",
    "kl_median",
    "times_baseline",
    "ce_increase",
    "top1_agreement",
    "l2",
    "cosine",
    "n",
)


def columns(settings: Mapping[str, Any], choices: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as flat columns: `sae` is the option taken, `sae.k` a setting."""
    return flatten(settings) | dict(choices)


def tags(choices: Mapping[str, Any], more: list[str]) -> list[str]:
    """The language model's and the ablation's options, then the user's own tags."""
    return list(dict.fromkeys(str(tag) for tag in (choices.get("lm"), choices.get("ablation"), *more) if tag))


def summary(result: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a study; what it did not measure is left out.

    Under a condition's own name, which the configuration gives it:

    - `kl/<condition>/mean`, with `ci_low`, `ci_high` and `median`: nats/token
    - `ce_increase/<condition>`, and `top1_agreement`, `l2`, `mse`, `cosine` in the same way
    - `pathology/<reconstruction>`: its KL over that of its ε baseline;
      `pathology/<reconstruction>/<baseline>`: the same with the other baselines

    Of the first condition of each role, under names that stay whatever the conditions are called:

    - `reduction`, `mse_reduction`: shares of the SAE's KL and squared error that the NFM removes
    - `marginal_interaction`: share of the linear part's KL that interactions remove beyond it;
      `marginal_interaction/absolute`: the same in nats/token
    - `pathology_change`: the `pathology` of the NFM less that of the SAE
    - `share_of_codes_bound`: the KL that the NFM takes off, over what a large MLP on the codes does

    Of the study:

    - `validation/<stage>/residual_explained`: on validation documents; `num_warnings`: of the study
    - `sae/…`, `nfm/…`, `timing/…`, `measurements`, `positions`, `documents`: as in `result.json`

    All but the counts and parts have `<name>/ci_low` and `<name>/ci_high`, where an interval was computed.
    """
    estimates = {name: estimate(lookup(result, *keys)) for name, keys in _HEADLINES.items()}
    for reconstruction, baselines in (result.get("pathology") or {}).items():
        for baseline, ratio in baselines.items():
            suffix = "" if baseline == "eps" else f"/{baseline}"
            estimates[f"pathology/{reconstruction}{suffix}"] = estimate(ratio)
    found: dict[str, float | None] = {name: number(result.get(name)) for name in _COUNTS}
    found["num_warnings"] = len(result["warnings"]) if "warnings" in result else None
    for stage, metrics in (result.get("validation") or {}).items():
        found[f"validation/{stage}/residual_explained"] = number(metrics.get("residual_explained"))
    for part in _PARTS:
        found |= {f"{part}/{key}": number(value) for key, value in (result.get(part) or {}).items()}
    for name, measured in (result.get("conditions") or {}).items():
        found |= {f"{key}/{name}": number(measured.get(key)) for key in _OF_CONDITIONS}
        found[f"kl/{name}/median"] = number(lookup(measured, "kl", "median"))
        estimates[f"kl/{name}"] = kl = condition_kl(result, name)
        found[f"kl/{name}/mean"] = kl and kl.value
    for name, shown in estimates.items():
        if shown is not None:
            value = {} if name.startswith("kl/") else {name: shown.value}
            found |= value | {f"{name}/ci_low": shown.low, f"{name}/ci_high": shown.high}
    return {name: value for name, value in found.items() if value is not None}


def table_rows(result: Mapping[str, Any]) -> list[Any]:
    """The conditions, each with the values of `TABLE`."""
    rows = []
    for row in condition_rows(result):
        kl = row.kl or (None, None, None)
        shown = (row.median, row.times_baseline, row.ce_increase, row.top1_agreement, row.l2, row.cosine)
        values = [None if value is None else value.value for value in shown]
        rows.append([row.name, row.role, row.reconstruction, row.baseline, *kl, *values, row.n])
    return rows
