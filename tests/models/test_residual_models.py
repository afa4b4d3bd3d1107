"""A whole study of the models of the residual: linear part, NFM, what it is held against, and warnings."""

import pytest

from tiny_studies import Suite


@pytest.fixture(scope="module")
def suite(tmp_path_factory, corpus_file):
    suite = Suite(tmp_path_factory.mktemp("residual"), corpus_file)
    status, printed = suite.run(
        "evaluation.reconstructions=[identity,sae,sae_linear,sae_nfm,refit,mlp,codes_bound]",
        "evaluation.reconstruction.codes_bound.d_hidden=32",
        "evaluation.reconstruction.codes_bound.rounds=2",
        "linear_tokens=4096",
        "hydra.run.dir=study",
    )
    assert status == 0, printed
    return suite


def test_the_linear_part_is_the_refitted_decoder_and_is_solved_once(suite):
    result = suite.result("study")
    refit, linear = (result["conditions"][name]["kl"]["mean"] for name in ("refit", "sae_linear"))
    assert linear == pytest.approx(refit, rel=1e-5)
    assert linear != result["conditions"]["sae"]["kl"]["mean"]
    assert len(suite.artifacts("linear")) == 1
    share = result["marginal_interaction"]["share"]["value"]
    assert result["marginal_interaction"]["share_over_refit"]["value"] == pytest.approx(share, abs=1e-5)


def test_the_result_says_what_each_part_explains_on_validation_documents(suite):
    found = suite.result("study")["validation"]
    assert {"sae", "nfm_linear", "nfm", "refit", "mlp", "codes_bound"} <= set(found)
    assert found["refit"] == found["nfm_linear"]
    for stage in ("nfm", "mlp", "codes_bound"):
        assert found[stage]["residual_explained"] >= found["nfm_linear"]["residual_explained"] - 1e-6
    assert found["codes_bound"]["train_tokens"] == 2 * found["nfm"]["train_tokens"]


def test_the_noise_floor_is_measured_and_is_no_condition_among_others(suite):
    result = suite.result("study")
    assert result["conditions"]["identity"]["l2"] == 0
    assert result["noise_floor"] == result["conditions"]["identity"]["kl"]["mean"]
    assert abs(result["noise_floor"]) < 1e-6
    replacing = [c["n"] for name, c in result["conditions"].items() if name not in ("clean", "identity")]
    assert result["measurements"] == sum(replacing)
    assert not any("identity" in (test["a"], test["b"]) for test in result["tests"])
    assert "noise floor" in (suite.folder / "study" / "report.html").read_text()


def test_what_the_nfm_takes_off_is_told_as_a_share_of_the_bound(suite):
    result = suite.result("study")
    kl = {name: result["conditions"][name]["kl"]["mean"] for name in ("sae", "sae_nfm", "codes_bound")}
    expected = (kl["sae"] - kl["sae_nfm"]) / (kl["sae"] - kl["codes_bound"])
    assert result["share_of_codes_bound"]["kl"]["value"] == pytest.approx(expected)


def test_a_study_with_few_tokens_and_documents_warns_wherever_it_is_read(suite):
    warnings = suite.result("study")["warnings"]
    assert any("linear_tokens=4096: 64 tokens per latent; below 100" in warning for warning in warnings)
    assert any("documents; below 200" in warning for warning in warnings)
    page = (suite.folder / "study" / "report.html").read_text()
    log = (suite.folder / "study" / "study.log").read_text()
    assert all(warning in page and warning in log for warning in warnings)


@pytest.mark.parametrize("nfm", ["poly", "published", "interaction"])
def test_other_forms_of_the_nfm_are_a_choice(suite, nfm):
    status, printed = suite.run(f"nfm={nfm}", "nfm.d_embed=8", f"hydra.run.dir={nfm}")
    assert status == 0, printed
    result = suite.result(nfm)
    assert result["conditions"]["sae_nfm"]["kl"]["mean"] > 0
    assert ("nfm_linear" in result["validation"]) == (nfm == "poly")
    assert "nan" not in printed.lower()
