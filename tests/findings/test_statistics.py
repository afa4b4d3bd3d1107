"""Intervals and tests against direct computations, and against data whose truth is known."""

import numpy as np
import pytest
from scipy import stats

from sae_nfm.findings.statistics import (
    Jackknife,
    clustered_t,
    holm,
    unpaired_t,
    wilcoxon,
)


def clusters(generator, num_documents, effect=0.0, between=1.0, within=1.0):
    """Σ of a value over each document's tokens, the number of tokens, and the tokens themselves."""
    tokens = np.maximum(2, generator.lognormal(4, 0.8, num_documents)).astype(int)
    means = effect + between * generator.standard_normal(num_documents)
    values = [mean + within * generator.standard_normal(n) for mean, n in zip(means, tokens, strict=True)]
    return np.array([value.sum() for value in values]), tokens.astype(float), values


@pytest.fixture
def data():
    return clusters(np.random.default_rng(0), 40, effect=0.3)


def test_clustered_t_is_the_sandwich_estimator_of_a_mean(data):
    """The same from all tokens by (XᵀX)⁻¹ Σ_g X_gᵀu_g u_gᵀX_g (XᵀX)⁻¹ · G/(G − 1) with X = 1."""
    sums, tokens, values = data
    everything = np.concatenate(values)
    mean = everything.mean()
    meat = sum((value - mean).sum() ** 2 for value in values)
    error = np.sqrt(len(tokens) / (len(tokens) - 1) * meat) / len(everything)

    found = clustered_t(sums, tokens)

    assert found["standard_error"] == pytest.approx(error, rel=1e-9)
    assert found["t"] == pytest.approx(mean / error, rel=1e-9)
    assert found["df"] == len(tokens) - 1
    assert found["p"] == pytest.approx(2 * stats.t.cdf(-abs(mean / error), len(tokens) - 1), rel=1e-9)


def test_clustered_t_of_documents_of_equal_length_is_the_t_test_of_their_means():
    means = np.random.default_rng(1).normal(0.2, 1, 30)
    found = clustered_t(means * 7, np.full(30, 7.0))
    expected = stats.ttest_1samp(means, 0)
    assert (found["t"], found["p"]) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-9)


def test_identical_conditions_have_no_effect_and_no_nan():
    """As where the NFM has no interaction part: every paired difference is exactly 0."""
    nothing, tokens = np.zeros(10), np.arange(1.0, 11)
    found = clustered_t(nothing, tokens)
    assert (found["t"], found["p"]) == (0, 1)
    assert wilcoxon(nothing) == {"statistic": 0.0, "p": 1.0, "n_documents": 10}


def test_the_jackknife_of_a_mean_of_equal_documents_is_its_t_interval():
    means = np.random.default_rng(1).normal(0.2, 1, 30)
    without = (means.sum() - means) / 29
    expected = stats.t.interval(0.95, 29, means.mean(), stats.sem(means))
    assert Jackknife.of(means.mean(), without).ci95 == pytest.approx(expected, rel=1e-9)


def test_the_jackknife_of_a_ratio_is_close_to_the_sandwich_estimator(data):
    sums, tokens, _ = data
    estimate = Jackknife.of(sums.sum() / tokens.sum(), (sums.sum() - sums) / (tokens.sum() - tokens))
    margin = stats.t.ppf(0.975, len(tokens) - 1) * clustered_t(sums, tokens)["standard_error"]
    assert estimate.ci95[1] - estimate.value == pytest.approx(margin, rel=0.1)
    assert estimate.value - estimate.ci95[0] > margin  # it never is narrower


def test_documents_that_are_all_alike_leave_no_interval():
    estimate = Jackknife.of(2.5, np.full(9, 2.5))
    assert estimate == Jackknife(2.5, (2.5, 2.5))
    assert estimate.shows_more_than(2.4)
    assert not estimate.shows_more_than(2.5)


def test_holm_against_values_by_hand():
    """0.01 · 4, then max(·, 0.02 · 3), max(·, 0.03 · 2), max(·, 0.5 · 1)."""
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.04, 0.02]) == pytest.approx([0.04, 0.04])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_wilcoxon_is_scipys(data):
    means = data[0] / data[1]
    expected = stats.wilcoxon(means)
    assert wilcoxon(means) == {
        "statistic": float(expected.statistic),
        "p": float(expected.pvalue),
        "n_documents": len(means),
    }


def test_unpaired_t_from_moments_is_scipys_from_samples():
    generator = np.random.default_rng(0)
    a, b = generator.normal(1, 2, 300), generator.normal(1.3, 1, 500)
    expected = stats.ttest_ind(a, b)
    found = unpaired_t(*((x.mean(), x.std(ddof=1), len(x)) for x in (a, b)))
    assert found["t"] == pytest.approx(expected.statistic, rel=1e-9)
    assert found["p"] == pytest.approx(expected.pvalue, rel=1e-9)


def test_a_constant_difference_without_error_is_certain():
    tokens = np.array([3.0, 5.0, 9.0])
    found = clustered_t(3 * tokens, tokens)
    assert (found["t"], found["p"]) == (np.inf, 0.0)
    assert clustered_t(-3 * tokens, tokens)["t"] == -np.inf


def test_more_is_shown_only_where_the_whole_interval_lies_above():
    estimate = Jackknife(1.0, (0.5, 1.5))
    assert estimate.shows_more_than(0.4)
    assert not estimate.shows_more_than(0.6)
