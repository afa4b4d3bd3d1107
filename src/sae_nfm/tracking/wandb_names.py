"""What W&B is told of a study, under names that stay: columns, tags, summary and table."""

from collections.abc import Collection, Mapping
from pathlib import PurePath
from typing import Any

from sae_nfm.report.conditions import described, main_conditions, of_role
from sae_nfm.report.estimates import estimate, lookup, number, pathology
from sae_nfm.report.page import flatten
from sae_nfm.report.tables import condition_rows

_WITH_INTERVALS = {
    "reduction": ("reduction",),
    "marginal_interaction": ("marginal_interaction", "share"),
}
_HEADLINES = {
    "mse_reduction": ("mse_reduction",),
    "marginal_interaction/absolute": ("marginal_interaction", "absolute"),
    "share_of_codes_bound": ("share_of_codes_bound", "kl"),
    "pathology_change": ("pathology_change", "eps"),
}
_OF_PARTS = {
    "sae": ("explained_variance", "l0", "dead_fraction"),
    "nfm": ("residual_explained", "interaction_share"),
    "timing": ("wall_s",),
}
_UNSEEN = (
    *(
        "evaluation.reconstruction",
        "evaluation.baseline",
        "evaluation.reconstructions",
        "evaluation.baselines",
    ),
    *("evaluation.matched", "evaluation.position", "evaluation.rows", "evaluation.batch_size"),
    *("evaluation.save_tokens", "evaluation.covariance_tokens", "evaluation.bank_tokens", "evaluation.top_n"),
    *("objectives", "stage", "sae_tuning_tokens", "tuning_tokens", "tuning_decay", "tuning_optimizer"),
    *("logger", "callbacks", "splits", "max_tokens", "skip_positions", "lm_batch", "pool_tokens"),
    *("corpus.packages", "corpus.document", "corpus.heading", "corpus.separator", "corpus.min_chars"),
    *("sae.b_dec_init", "sae.auxk_coefficient", "sae.dead_after", "nfm.embed_std", "validation_tokens"),
    *("trainer.accelerator", "trainer.strategy", "trainer.devices", "trainer.num_nodes", "checkpoint_every"),
    *("artifacts", "verify", "plan", "profile", "optimize"),
)
"""Settings that hardly ever vary, or that say how rather than what."""
_TECHNICAL = ("_target_", "_partial_", "betas", "eps", "fused")
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


def columns(
    settings: Mapping[str, Any], choices: Mapping[str, Any], given: Collection[str] = ()
) -> dict[str, Any]:
    """What studies are told apart by, as flat columns: `sae` is the option taken, `sae.k` a setting.

    Settings that hardly ever vary are in the artifact `result` alone, unless the command gives them.

    Args:
        settings: the resolved configuration.
        choices: the option taken for every config group.
        given: keys that the command gives.
    """
    flat = flatten(settings)
    chosen = {name: str(option) for name, option in choices.items() if option and "@" not in name}
    shown = {key: value for key, value in flat.items() if key in given or _is_seen(key, value)}
    return shown | {name: option for name, option in chosen.items() if name != "logger"}


def _is_seen(key: str, value: Any) -> bool:
    is_under = any(key == name or key.startswith(f"{name}.") for name in _UNSEEN)
    return value is not None and not is_under and key.rpartition(".")[2] not in _TECHNICAL


def tags(settings: Mapping[str, Any], choices: Mapping[str, Any], more: list[str]) -> list[str]:
    """The language model, the site, the experiment and the ablation, then the user's own tags."""
    lm = choices.get("lm")
    if lm == "local":
        lm = PurePath(str(lookup(settings, "lm", "path"))).name
    site = f"layer {settings['layer']} {settings['hook']}"
    ablation = choices.get("ablation")
    found = (lm, site, choices.get("experiment"), None if ablation == "none" else ablation, *more)
    return list(dict.fromkeys(str(tag) for tag in found if tag))


def condition_key(result: Mapping[str, Any], name: str) -> str:
    """A condition's name as W&B takes it in expressions: `eps(sae)` is `eps.sae`."""
    what = described(result, name)
    return f"{what.baseline}.{what.reconstruction}" if what.baseline else name


def summary(result: Mapping[str, Any]) -> dict[str, float]:
    """The chosen figures of a study; what it did not measure is left out, and the artifact has the rest.

    Of conditions, under the names that the configuration gives them:

    - `kl/<reconstruction>`, and `kl/eps.<reconstruction>` of the SAE and the NFM: mean, nats/token
    - `pathology/<reconstruction>`: its KL over that of its ε baseline
    - `ce_increase/<reconstruction>`, nats/token, and `top1_agreement`: of the SAE and the NFM

    Of the first condition of each role, under names that stay whatever the conditions are called:

    - `reduction`, `mse_reduction`: shares of the SAE's KL and squared error that the NFM removes
    - `marginal_interaction`: share of the linear part's KL that interactions remove beyond it;
      `marginal_interaction/absolute`: the same in nats/token
    - `pathology_change`: the `pathology` of the NFM less that of the SAE
    - `share_of_codes_bound`: the KL that the NFM takes off, over what a large MLP on the codes does

    `reduction` and `marginal_interaction` have `<name>/ci_low` and `<name>/ci_high` as well. Of the study:
    `sae/…`, `nfm/…`, `timing/wall_s`, `positions` and `documents` as in `result.json`, and `num_warnings`.
    """
    found: dict[str, float | None] = {name: number(result.get(name)) for name in ("positions", "documents")}
    found["num_warnings"] = len(result["warnings"]) if "warnings" in result else None
    for part, keys in _OF_PARTS.items():
        found |= {f"{part}/{key}": number(lookup(result, part, key)) for key in keys}
    found |= _of_conditions(result)
    for name, keys in (_WITH_INTERVALS | _HEADLINES).items():
        if (shown := estimate(lookup(result, *keys))) is not None:
            found[name] = shown.value
            if name in _WITH_INTERVALS:
                found |= {f"{name}/ci_low": shown.low, f"{name}/ci_high": shown.high}
    return {name: value for name, value in found.items() if value is not None}


def _of_conditions(result: Mapping[str, Any]) -> dict[str, float | None]:
    conditions = result.get("conditions") or {}
    spliced = [n for n in conditions if described(result, n).role not in ("clean", "identity", "baseline")]
    shown = dict.fromkeys([*main_conditions(result), *spliced])
    found = {f"kl/{condition_key(result, n)}": number(lookup(conditions[n], "kl", "mean")) for n in shown}
    for name in (of_role(result, role) for role in ("sae", "nfm")):
        if name is not None:
            ratio = pathology(result, name)
            found[f"pathology/{name}"] = ratio and ratio.value
            for key in ("ce_increase", "top1_agreement"):
                found[f"{key}/{name}"] = number(conditions[name].get(key))
    return found


def table_rows(result: Mapping[str, Any]) -> list[Any]:
    """The conditions, each with the values of `TABLE`."""
    rows = []
    for row in condition_rows(result):
        kl = row.kl or (None, None, None)
        shown = (row.median, row.times_baseline, row.ce_increase, row.top1_agreement, row.l2, row.cosine)
        values = [None if value is None else value.value for value in shown]
        rows.append([row.name, row.role, row.reconstruction, row.baseline, *kl, *values, row.n])
    return rows
