"""Conditions held against each other: ratios, headlines and tests, found by the conditions' roles."""

from collections.abc import Callable
from typing import Any

from sae_nfm.findings.statistics import Jackknife, clustered_t, holm, unpaired_t, wilcoxon
from sae_nfm.findings.summary import Summary
from sae_nfm.models.plant import Plant

_REPLACES_NOTHING = ("clean", "identity")
_ABLATIONS = ("zero", "mean")


def comparisons(summary: Summary) -> dict[str, Any]:
    """Noise floor, ratios, headlines and tests; of several conditions of a role, headlines take the first.

    What interactions are worth is held against the best linear reconstruction there is: one that was trained
    alone, where the linear part was trained beside them.
    """
    identity, compared = summary.of_role("identity"), pairs(summary)
    tests = paired_tests(summary, compared)
    return {
        "noise_floor": None if identity is None else summary.level("kl", identity).value,
        "ratios": {f"{a}/{b}": as_json(summary.ratio("kl", a, b)) for a, b in compared},
        **_headlines(summary),
        "made_worse": {f"{t['a']} vs {t['b']}": {"fraction": t.pop("fraction_worse")} for t in tests},
        "tests": tests,
    }


def pairs(summary: Summary) -> list[tuple[str, str]]:
    """What is held against what, by name.

    Each reconstruction against its own baselines, all against the SAE, and the NFM against the other
    reconstructions, ablations apart.
    """
    sae, nfm = summary.of_role("sae"), summary.of_role("nfm")
    matched = [(c.reconstruction, c.name) for c in summary.conditions if c.role == "baseline"]
    plain = [c for c in summary.conditions if c.role not in (*_REPLACES_NOTHING, "baseline")]
    others = [c.name for c in plain if c.name not in (sae, nfm) and c.role not in _ABLATIONS]
    found = [(a, b) for a, b in matched if a is not None]
    found += [(c.name, sae) for c in plain if sae is not None and c.name != sae]
    return found + [(nfm, name) for name in others if nfm is not None]


def _headlines(summary: Summary) -> dict[str, Any]:
    def found(figure: Callable[..., Jackknife | None], measure: str, *roles: str) -> dict[str, Any] | None:
        names = [summary.of_role(role) for role in roles]
        return None if None in names else as_json(figure(measure, *names))

    linear = best_linear(summary)
    absolute = found(summary.difference, "kl", linear, "nfm")
    of_bound = ("nfm", "codes_bound", "sae")
    bounded = None not in [summary.of_role(role) for role in of_bound]
    return {
        **_pathology(summary),
        "reduction": found(summary.reduction, "kl", "nfm", "sae"),
        "mse_reduction": found(summary.reduction, "mse", "nfm", "sae"),
        "marginal_interaction": absolute
        and {
            "against": summary.of_role(linear),
            "absolute": absolute,
            "share": found(summary.reduction, "kl", "nfm", linear),
            "share_over_refit": found(summary.reduction, "kl", "nfm", "refit"),
        },
        "joint_training": found(summary.reduction, "kl", "nfm", "sequential")
        and {
            "nfm": found(summary.reduction, "kl", "nfm", "sae_alone"),
            "over_sequential": found(summary.reduction, "kl", "nfm", "sequential"),
            "interactions": found(summary.reduction, "kl", "nfm", "linear_alone"),
        },
        "share_of_codes_bound": {
            measure: found(summary.share, measure, *of_bound) for measure in ("kl", "mse")
        }
        if bounded
        else None,
    }


def best_linear(summary: Summary) -> str:
    """The role of what interactions are held against."""
    return "linear" if summary.of_role("linear_alone") is None else "linear_alone"


def _pathology(summary: Summary) -> dict[str, Any]:
    """Every reconstruction's KL over its own baselines', and what the NFM makes of the SAE's."""
    own: dict[str, dict[str, tuple[str, str]]] = {}
    for condition in summary.conditions:
        a, baseline = condition.reconstruction, condition.baseline_name
        if a is not None and baseline is not None:
            own.setdefault(a, {})[baseline] = (a, condition.name)
    sae, nfm = (own.get(summary.of_role(role) or "", {}) for role in ("sae", "nfm"))
    return {
        "pathology": {
            a: {baseline: as_json(summary.ratio("kl", *pair)) for baseline, pair in matched.items()}
            for a, matched in own.items()
        },
        "pathology_change": {
            baseline: as_json(summary.ratio_difference("kl", pair, sae[baseline]))
            for baseline, pair in nfm.items()
            if baseline in sae
        },
    }


def paired_tests(summary: Summary, compared: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Paired tests of KL between conditions, Holm-adjusted over the family of these pairs."""
    out = [_test(summary, a, b) for a, b in compared]
    adjusted = holm([test["paired_t_clustered"]["p"] for test in out])
    return [{**test, "p_holm": p} for test, p in zip(out, adjusted, strict=True)]


def _test(summary: Summary, a: str, b: str) -> dict[str, Any]:
    differences = summary.documents("kl", a) - summary.documents("kl", b)
    difference = summary.difference("kl", a, b)
    i, j = summary.names.index(a), summary.names.index(b)
    n, products = summary.tokens.sum(), summary.sums["products"]
    squared = (products[i, i] - 2 * products[i, j] + products[j, j]) / n
    deviation = max(1e-300, squared - difference.value**2) ** 0.5
    return {
        "a": a,
        "b": b,
        "difference": {"mean": difference.value, "ci95": list(difference.ci95)},
        "paired_t_clustered": clustered_t(differences, summary.tokens),
        "wilcoxon": wilcoxon(differences / summary.tokens),
        "cohens_d": difference.value / deviation,
        "unpaired_t_as_published": unpaired_t(summary.moments(a), summary.moments(b)),
        "fraction_worse": float(summary.sums["worse"][i, j] / n),
    }


def planted(summary: Summary, plant: Plant | None) -> dict[str, Any] | None:
    """What was planted, and the `share` that a model which knows it takes off KL(linear): the truth.

    Where no interactions are planted the truth is 0: such a model takes off the linear part's own error.
    None where nothing is planted, or what it takes to know the truth was not spliced in.
    """
    best, linear = summary.of_role("planted"), summary.of_role(best_linear(summary))
    if plant is None or best is None or linear is None:
        return None
    share = Jackknife(0.0, (0.0, 0.0))
    if plant.has_interactions:
        share = summary.reduction("kl", best, linear)
    return {"kind": plant.kind, "share": as_json(share)}


def as_json(figure: Jackknife | None) -> dict[str, Any] | None:
    """A figure as `{"value", "ci95"}`."""
    return None if figure is None else {"value": figure.value, "ci95": list(figure.ci95)}
