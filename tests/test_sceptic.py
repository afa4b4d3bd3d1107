"""A whole study of every condition and every measure there is."""

import math

import pytest

from tiny_studies import Suite

MATCHED = ("eps", "cov", "real", "permuted", "theta", "theta_shrunk", "norm_only", "norm_corrected")
RECONSTRUCTIONS = (
    "identity", "sae", "sae_linear", "sae_interaction", "sae_nfm", "bias", "refit", "affine", "mlp",
    "codes_bound", "wide_sae", "zero", "mean",
)  # fmt: skip


@pytest.fixture(scope="module")
def result(tmp_path_factory, corpus_file):
    suite = Suite(tmp_path_factory.mktemp("sceptic"), corpus_file)
    settings = [
        "evaluation=sceptic",
        "evaluation.baselines=[" + ",".join(MATCHED) + "]",
        "evaluation.top_n=3",
    ]
    small = ["evaluation.reconstruction.codes_bound.d_hidden=16", "evaluation.covariance_tokens=2000"]
    status, printed = suite.run(*settings, *small, "evaluation.bank_tokens=300", "hydra.run.dir=study")
    assert status == 0, printed
    return suite.result("study")


def numbers(node, path=""):
    if isinstance(node, dict):
        for key, item in node.items():
            yield from numbers(item, f"{path}/{key}")
    elif isinstance(node, list):
        for item in node:
            yield from numbers(item, path)
    elif not isinstance(node, str | bool):
        yield path, node


def test_every_condition_is_there_and_every_figure_is_a_number(result):
    matched = [f"{name}({target})" for target in ("sae", "sae_nfm") for name in MATCHED]
    assert list(result["conditions"]) == ["clean", *RECONSTRUCTIONS, *matched]
    zero_may_cost_nothing = result["conditions"]["zero"]["ce_increase_ci95"][0] <= 0
    withheld = {"loss_recovered"} if zero_may_cost_nothing else set()
    missing = {
        path for path, value in numbers(result["conditions"]) if value is None or not math.isfinite(value)
    }
    assert {path.split("/", 2)[2] for path in missing} <= {
        *("by_position/kl", "by_position/ci95"),  # of BOS
        *("baseline", "reconstruction"),  # of what is none
    } | withheld
    assert {entry["loss_recovered"] is None for entry in result["conditions"].values()} == {
        zero_may_cost_nothing
    }
    assert set(result["pathology"]["sae_nfm"]) == set(MATCHED)
    assert all(0 <= test["p_holm"] <= 1 for test in result["tests"])


def test_matched_errors_have_the_size_and_the_norm_that_they_are_matched_to(result):
    conditions = result["conditions"]
    for target in ("sae", "sae_nfm"):
        for name in ("eps", "cov", "real", "theta_shrunk"):
            assert conditions[f"{name}({target})"]["l2"] == pytest.approx(conditions[target]["l2"], rel=1e-5)
        for name in ("theta", "norm_corrected"):
            assert conditions[f"{name}({target})"]["cosine"] == pytest.approx(
                conditions[target]["cosine"], rel=1e-5
            )


def test_controls_are_in_the_order_that_they_must_be_in(result):
    kl = {name: entry["kl"]["mean"] for name, entry in result["conditions"].items()}
    assert kl["clean"] == 0
    assert abs(kl["identity"]) < 1e-6
    assert kl["refit"] == pytest.approx(kl["sae_linear"], rel=1e-5)
    assert max(kl[name] for name in RECONSTRUCTIONS if name not in ("zero", "mean")) < min(
        kl["zero"], kl["mean"]
    )
