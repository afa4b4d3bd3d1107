"""Tests against direct computations; headlines found by role."""

import json

import pytest
from scipy import stats

from fake_results import renamed
from sae_nfm.baselines.matched import Eps
from sae_nfm.evaluation.condition import conditions
from sae_nfm.findings.comparisons import paired_tests, pairs, planted
from sae_nfm.findings.result import findings
from sae_nfm.findings.statistics import clustered_t, holm
from sae_nfm.models.plant import Plant
from scored_tokens import Tokens, interval, summary_of

ROLES = {
    "identity": "identity",
    "sae": "sae",
    "sae_linear": "linear",
    "sae_nfm": "nfm",
    "bias": "control",
    "refit": "refit",
    "codes_bound": "codes_bound",
    "sae_planted": "planted",
    "zero": "zero",
}
LEVEL = {"clean": 0, "sae": 1, "sae_nfm": 0.7, "codes_bound": 0.4, "zero": 5, "eps(sae)": 0.5}
HEADLINES = (
    "noise_floor",
    "pathology_change",
    "reduction",
    "mse_reduction",
    "marginal_interaction",
    "share_of_codes_bound",
)
PAIRS = Plant("pairs", num_tuples=4, strength=1.0, noise=0.1)


def summary_by_role(roles, names=None):
    """The summary of an evaluation of reconstructions with these roles, some of them under other names."""
    named = conditions(roles, {"eps": Eps()}, [name for name in roles if "sae" in name], 2)
    level = {condition.name: LEVEL.get(condition.name, 0.9) for condition in named}
    tokens = Tokens(level=level, draws={condition.name: condition.draws for condition in named})
    new = {name: (names or {}).get(name, name) for name in roles}
    matched = [new[name] for name in roles if "sae" in name]
    named = conditions({new[name]: role for name, role in roles.items()}, {"eps": Eps()}, matched, 2)
    return summary_of(tokens, named=named)


def test_paired_tests(tokens, summary):
    (test,) = paired_tests(summary, [("sae", "sae_nfm")])
    a, b = tokens.of("sae", "kl"), tokens.of("sae_nfm", "kl")
    by_document = tokens.by_document("sae") - tokens.by_document("sae_nfm")
    sizes = tokens.tokens_by_document()
    assert (test["a"], test["b"]) == ("sae", "sae_nfm")
    assert test["difference"]["mean"] == pytest.approx((a - b).mean())
    assert test["difference"]["ci95"] == pytest.approx(interval(by_document, sizes))
    assert test["paired_t_clustered"] == pytest.approx(clustered_t(by_document, sizes))
    expected = stats.wilcoxon(by_document / sizes)
    assert test["wilcoxon"]["p"] == pytest.approx(expected.pvalue)
    assert test["wilcoxon"]["n_documents"] == len(sizes)
    assert test["cohens_d"] == pytest.approx((a - b).mean() / (a - b).std())
    assert test["fraction_worse"] == pytest.approx((a > b).mean())


def test_the_published_test_takes_every_draw_as_a_sample(tokens, summary):
    (test,) = paired_tests(summary, [("sae", "eps(sae)")])
    a, b = (tokens.kl_draws[name][:, tokens.scored].ravel() for name in ("sae", "eps(sae)"))
    expected = stats.ttest_ind(a, b)
    assert len(b) == 3 * len(a)
    assert test["unpaired_t_as_published"]["t"] == pytest.approx(expected.statistic)
    assert test["unpaired_t_as_published"]["p"] == pytest.approx(expected.pvalue, rel=1e-6)


def test_p_values_are_adjusted_over_the_family_of_pairs(summary):
    pairs = [("sae", "sae_nfm"), ("sae", "eps(sae)"), ("sae_nfm", "eps(sae)")]
    tests = paired_tests(summary, pairs)
    assert [(test["a"], test["b"]) for test in tests] == pairs
    p = [test["paired_t_clustered"]["p"] for test in tests]
    assert [test["p_holm"] for test in tests] == holm(p)
    assert paired_tests(summary, []) == []


def test_conditions_that_are_equal_have_no_effect_and_no_nan(summary):
    """As `sae_nfm` and `sae_linear` are where the NFM has no interaction part."""
    (test,) = paired_tests(summary, [("sae", "sae")])
    assert (test["paired_t_clustered"]["t"], test["paired_t_clustered"]["p"], test["p_holm"]) == (0, 1, 1)
    assert test["cohens_d"] == 0
    assert test["fraction_worse"] == 0
    json.dumps(test, allow_nan=False)


def test_names_mean_nothing():
    names = {
        "identity": "nothing",
        "sae": "plain",
        "sae_linear": "zero",
        "sae_nfm": "refit",
        "refit": "solved",
        "codes_bound": "mlp",
        "zero": "ablated",
    }
    found, again = findings(summary_by_role(ROLES)), findings(summary_by_role(ROLES, names))
    assert all(found[name] for name in HEADLINES)
    assert renamed(found, names) == again
    assert again["pathology"]["refit"]["eps"] == found["pathology"]["sae_nfm"]["eps"]
    assert again["conditions"]["plain"]["loss_recovered"] == found["conditions"]["sae"]["loss_recovered"]
    truth = [planted(summary_by_role(ROLES, given), PAIRS) for given in ({}, names)]
    assert truth[0] == truth[1]
    assert truth[0] is not None


def test_of_several_conditions_of_a_role_headlines_take_the_first():
    roles = {"sae": "sae", "sae_nfm": "nfm"}
    twice = summary_by_role(roles | {"other_sae": "sae", "other_nfm": "nfm"})
    found = findings(twice)
    assert found["reduction"]["value"] == twice.reduction("kl", "sae_nfm", "sae").value
    assert [pair for pair in pairs(twice) if "(" not in pair[1]] == [
        ("sae_nfm", "sae"),
        ("other_sae", "sae"),
        ("other_nfm", "sae"),
        ("sae_nfm", "other_sae"),
        ("sae_nfm", "other_nfm"),
    ]


@pytest.mark.parametrize(
    ("lacking", "headlines"),
    [
        ("identity", ["noise_floor"]),
        ("sae", ["pathology_change", "reduction", "mse_reduction", "share_of_codes_bound"]),
        ("sae_linear", ["marginal_interaction"]),
        ("sae_nfm", HEADLINES[1:]),
        ("codes_bound", ["share_of_codes_bound"]),
    ],
)
def test_without_a_role_its_headlines_are_none_and_the_others_stay(lacking, headlines):
    found = findings(summary_by_role({name: role for name, role in ROLES.items() if name != lacking}))
    assert [name for name in HEADLINES if not found[name]] == list(headlines)


def test_each_is_held_against_its_baselines_and_the_sae_and_the_nfm_against_each_that_is_no_ablation():
    found = pairs(summary_by_role(ROLES))
    assert [pair for pair in found if "(" in pair[1]] == [
        (name, f"eps({name})") for name in ("sae", "sae_linear", "sae_nfm", "sae_planted")
    ]
    assert [a for a, b in found if b == "sae"] == [n for n in ROLES if n not in ("identity", "sae")]
    others = ["sae_linear", "bias", "refit", "codes_bound", "sae_planted"]
    assert [b for a, b in found if a == "sae_nfm" and b not in ("sae", "eps(sae_nfm)")] == others


@pytest.mark.parametrize("lacking", ["sae_planted", "sae_linear"])
def test_the_truth_of_a_plant_takes_both_conditions(lacking):
    assert planted(summary_by_role({n: role for n, role in ROLES.items() if n != lacking}), PAIRS) is None
    assert planted(summary_by_role(ROLES), None) is None


def test_the_truth_of_a_plant_without_interactions_is_zero():
    summary, linear = summary_by_role(ROLES), Plant("linear", 4, 1.0, 0.1)
    nothing = {"kind": "linear", "share": {"value": 0.0, "ci95": [0.0, 0.0]}}
    assert planted(summary, linear) == nothing
    share = summary.reduction("kl", "sae_planted", "sae_linear")
    assert planted(summary, PAIRS)["share"] == {"value": share.value, "ci95": list(share.ci95)}
