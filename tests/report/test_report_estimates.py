import pytest

from fake_results import fake_result
from sae_nfm.report.estimates import (
    Estimate,
    estimate,
    format_estimate,
    kl_ratio,
    kl_reduction,
    mse_reduction,
)
from sae_nfm.report.headline import facts, headline


@pytest.mark.parametrize(
    ("shown", "minimum", "unit", "text"),
    [
        (Estimate(2.211326, 2.2046, 2.2180), 3, "", "2.211 [2.205, 2.218]"),
        (Estimate(0.0028), 3, "", "0.0028"),
        (Estimate(2.9897, 2.97, 3.01), 2, "×", "2.99× [2.97, 3.01]"),
        (Estimate(0.2989, 0.293, 0.305), 1, "%", "29.9% [29.3, 30.5]"),
        (Estimate(-0.01, -0.02, 0.0), 1, "%", "-1.0% [-2.0, 0.0]"),
        (Estimate(1.0, 1.0, 1.0), 1, "%", "100.0%"),
        (Estimate(0.0, 0.0, 0.0), 3, "", "0.000"),
        (Estimate(2.0, 1.99999, 2.00001), 3, "", "2.00000 [1.99999, 2.00001]"),
        (None, 3, "", "–"),
    ],
)
def test_a_number_has_the_decimals_that_its_interval_deserves(shown, minimum, unit, text):
    assert format_estimate(shown, minimum, unit) == text


def test_what_is_not_a_finite_number_is_no_estimate():
    assert estimate(None) is None
    assert estimate({"value": float("nan"), "ci95": [0, 1]}) is None
    assert estimate({"value": True}) is None
    assert estimate({"mean": 2, "ci95": None}) == Estimate(2.0)
    assert estimate(2, [1, float("inf")]) == Estimate(2.0)


def test_complement_and_negative_scale_keep_the_interval_in_order():
    assert Estimate(0.7, 0.6, 0.8).complement() == pytest.approx((0.3, 0.2, 0.4))
    assert Estimate(0.7, 0.6, 0.8).scaled(-1) == (-0.7, -0.8, -0.6)


def test_ratios_come_from_the_study_and_else_from_the_means():
    result = fake_result(baselines=("eps", "cov"))
    assert kl_ratio(result, "sae", "eps(sae)") == tuple(
        (result["ratios"]["sae/eps(sae)"]["value"], *result["ratios"]["sae/eps(sae)"]["ci95"])
    )
    sae, cov = (result["conditions"][name]["kl"]["mean"] for name in ("sae", "cov(sae)"))
    assert kl_ratio(result, "sae", "cov(sae)") == Estimate(sae / cov)
    result["pathology"]["sae"]["cov"] = {"value": 1.5, "ci95": [1.4, 1.6]}
    assert kl_ratio(result, "sae", "cov(sae)") == Estimate(1.5, 1.4, 1.6)
    assert kl_ratio(result, "sae", "clean") is None


def test_reductions_are_against_the_sae():
    result = fake_result()
    assert kl_reduction(result, "sae_nfm").value == result["reduction"]["value"]
    assert kl_reduction(result, "sae_linear").value == pytest.approx(1 - 1.5526 / 2.211)
    mse = {name: result["conditions"][name]["mse"] for name in ("sae", "sae_linear")}
    assert mse_reduction(result, "sae_linear").value == pytest.approx(1 - mse["sae_linear"] / mse["sae"])


def test_a_ratio_that_the_study_withholds_is_not_made_of_the_means():
    result = fake_result(("sae", "sae_linear", "sae_nfm"))
    result["ratios"] |= {"sae_linear/sae": None, "sae/eps(sae)": None}
    result |= {"reduction": None, "mse_reduction": None}
    assert kl_ratio(result, "sae", "eps(sae)") is None
    assert kl_reduction(result, "sae_linear") is None
    assert kl_reduction(result, "sae_nfm") is None
    assert mse_reduction(result, "sae_nfm") is None
    del result["ratios"]["sae/eps(sae)"]
    result["pathology"]["sae"]["eps"] = None
    assert kl_ratio(result, "sae", "eps(sae)") is None
    assert not [sentence for sentence in headline(result) if sentence.startswith("Adding the NFM")]
    del result["reduction"]  # of a result that never had it
    assert kl_reduction(result, "sae_nfm").value == pytest.approx(1 - 1.5498 / 2.211, abs=1e-3)


def test_the_headline_says_what_the_interval_allows():
    result = fake_result()
    result["reduction"] = {"value": 0.299, "ci95": [0.293, 0.305]}
    assert headline(result)[0] == (
        "Adding the NFM cuts the SAE's next-token KL by 29.9% (95% interval 29.3 to 30.5), "
        "from 2.211 to 1.550 nats/token."
    )
    result["reduction"] = {"value": 0.01, "ci95": [-0.01, 0.03]}
    assert "does not change the SAE's next-token KL beyond chance" in headline(result)[0]
    result["reduction"] = {"value": -0.1, "ci95": [-0.12, -0.08]}
    assert "raises the SAE's next-token KL by 10.0% (95% interval 8.0 to 12.0)" in headline(result)[0]
    result["marginal_interaction"]["absolute"] = {"value": 0.001, "ci95": [-0.001, 0.003]}
    assert headline(result)[1].startswith("Feature interactions bring nothing measurable")
    result["marginal_interaction"]["absolute"] = {"value": -0.002, "ci95": [-0.003, -0.001]}
    assert headline(result)[1].startswith(
        "Feature interactions bring nothing beyond the linear part: they add 0.002"
    )


def test_without_an_nfm_the_headline_is_the_pathology_or_the_kl():
    assert headline(fake_result(("sae",)))[0].startswith("Against random errors of the same length")
    assert headline(fake_result(("sae",), ()))[0].startswith("Splicing in the SAE's reconstruction costs")
    assert headline({"conditions": {}}) == ["This study measured no condition."]
    assert facts({}) == []


@pytest.mark.parametrize(
    ("share", "said"),
    [(0.48, "takes off, the best predictor of the residual that was tried."), (1.2, "codes takes off.")],
)
def test_what_the_nfm_beats_is_not_called_the_best(share, said):
    result = fake_result() | {"share_of_codes_bound": {"kl": {"value": share, "ci95": [0.4, 1.3]}}}
    assert headline(result)[2].endswith(said)


def test_the_change_of_the_ratio_to_random_errors_is_said_as_its_interval_allows():
    def said(value, low, high):
        result = fake_result(("sae", "sae_nfm")) | {
            "pathology_change": {"eps": {"value": value, "ci95": [low, high]}}
        }
        return headline(result)[-1]

    assert said(-0.3, -0.4, -0.2).endswith("that multiple is lower by 0.30 (95% interval 0.20 to 0.40).")
    assert said(0.3, 0.2, 0.4).endswith("that multiple is higher by 0.30 (95% interval 0.20 to 0.40).")
    assert said(0.1, -0.2, 0.4).endswith("The NFM does not change that multiple beyond chance.")


def test_the_facts_name_the_family_and_k_only_where_it_has_one():
    result = fake_result()
    assert {"topk SAE of 1,024 latents", "k 32"} <= set(facts(result))
    result["sae"] = {"family": "jumprelu", "d_sae": 1024, "l0": 41.7, "explained_variance": 0.8}
    assert "jumprelu SAE of 1,024 latents" in facts(result)
    assert not [fact for fact in facts(result) if fact.startswith("k ")]
    del result["sae"]["family"]
    assert "topk SAE of 1,024 latents" in facts(result)  # the only one that there was


def test_parts_that_were_trained_together_are_not_taken_for_the_best_of_each():
    result = fake_result(("sae", "sae_linear", "sae_nfm"))
    for fit, words in (("together", "not the best linear one."), ("linear_then_interaction", "leaves.")):
        result["nfm"]["fit"] = fit
        assert headline(result)[1].endswith(words)
    result["nfm"] |= {"fit": "together", "linear": False}  # there is but one part
    assert headline(result)[1].endswith("leaves.")


def test_a_control_says_what_was_planted_and_what_was_found():
    result = fake_result(("sae", "sae_linear", "sae_nfm"))
    result["marginal_interaction"]["share"] = {"value": 0.39, "ci95": [0.35, 0.42]}
    result["planted"] = {"kind": "pairs", "share": {"value": 0.4, "ci95": [0.36, 0.43]}}
    assert headline(result)[0] == (
        "Control: pairs worth 40.0% (95% interval 36.0 to 43.0) were planted; interactions take 39.0% "
        "(95% interval 35.0 to 42.0) off the KL that the linear part leaves."
    )
    result["planted"] = {"kind": "none", "share": {"value": 0.0, "ci95": [0.0, 0.0]}}
    assert headline(result)[0].startswith("Control: no interactions were planted; interactions take 39.0%")
