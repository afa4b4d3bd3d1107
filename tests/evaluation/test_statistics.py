"""Intervals and tests against direct computations, and against data whose truth is known."""

import numpy as np
import pytest
from scipy import stats

from sae_nfm.evaluation.statistics import (
    Estimate,
    clustered_t,
    document_bootstrap,
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
    assert wilcoxon(nothing)["p"] == 1


def test_bootstrap_of_the_whole_is_centred_on_the_sums_and_spread_as_theory_says(data):
    sums, tokens, _ = data
    replicates = document_bootstrap(np.stack([sums, tokens]), resamples=20_000, seed=0)
    assert replicates.shape == (20_000, 2)
    spread = np.sqrt(len(sums)) * sums.std()
    assert replicates[:, 0].mean() == pytest.approx(sums.sum(), abs=4 * spread / np.sqrt(20_000))
    assert replicates[:, 0].std() == pytest.approx(spread, rel=0.03)
    means = replicates[:, 0] / replicates[:, 1]
    assert means.std() == pytest.approx(clustered_t(sums, tokens)["standard_error"], rel=0.1)


def test_bootstrap_of_one_value_is_that_value():
    replicates = document_bootstrap(np.stack([np.full(9, 2.5), np.ones(9)]), resamples=50, seed=0)
    np.testing.assert_allclose(replicates[:, 0] / replicates[:, 1], 2.5)
    np.testing.assert_allclose(replicates[:, 1], 9)


def test_bootstrap_draws_the_same_documents_for_all_rows(data):
    sums, tokens, _ = data
    replicates = document_bootstrap(np.stack([sums, 3 * sums, tokens]), resamples=100, seed=0)
    np.testing.assert_allclose(replicates[:, 1], 3 * replicates[:, 0], rtol=1e-9, atol=1e-9)


def test_bootstrap_follows_its_seed_and_not_its_chunks(data, monkeypatch):
    rows = np.stack(data[:2])
    whole = document_bootstrap(rows, resamples=300, seed=5)
    assert np.array_equal(whole, document_bootstrap(rows, resamples=300, seed=5))
    assert not np.array_equal(whole, document_bootstrap(rows, resamples=300, seed=6))
    monkeypatch.setattr("sae_nfm.evaluation.statistics._CHUNK", 7 * rows.shape[1])
    np.testing.assert_allclose(document_bootstrap(rows, resamples=300, seed=5), whole)


def test_an_estimate_holds_the_2_5_and_97_5_percentiles():
    estimate = Estimate.of(np.float64(500.0), np.random.default_rng(0).permutation(np.arange(1001.0)))
    assert estimate == Estimate(500.0, (25.0, 975.0))


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


def covered(simulation, effect, num_documents):
    """Whether both intervals hold the true effect, and whether the unpaired test rejects it."""
    generator = np.random.default_rng((17, simulation))
    # Paired differences between two conditions: documents differ in how much, tokens scatter about that.
    sums, tokens, values = clusters(generator, num_documents, effect)
    replicates = document_bootstrap(np.stack([sums, tokens]), resamples=1000, seed=simulation)
    low, high = Estimate.of(sums.sum() / tokens.sum(), replicates[:, 0] / replicates[:, 1]).ci95
    found = clustered_t(sums - effect * tokens, tokens)
    differences = np.concatenate(values) - effect
    base = generator.standard_normal(len(differences))
    a, b = base + differences, base
    published = unpaired_t(*((x.mean(), x.std(ddof=1), len(x)) for x in (a, b)))
    return low <= effect <= high, found["p"] > 0.05, published["p"] <= 0.05


@pytest.mark.slow
def test_intervals_cover_a_known_effect_and_the_unpaired_test_does_not():
    """2,000 data sets of 200 documents of very different lengths, each document with an effect of its own."""
    outcomes = np.array([covered(simulation, 0.25, 200) for simulation in range(2000)])
    bootstrap, clustered, false_positives = outcomes.mean(0)
    print(f"coverage: bootstrap {bootstrap:.4f}, clustered t {clustered:.4f}")
    print(f"the unpaired t-test rejects a true null in {false_positives:.4f}")
    assert 0.93 <= bootstrap <= 0.97
    assert 0.93 <= clustered <= 0.97
    assert false_positives > 0.3


def test_a_constant_difference_without_error_is_certain():
    tokens = np.array([3.0, 5.0, 9.0])
    found = clustered_t(3 * tokens, tokens)
    assert (found["t"], found["p"]) == (np.inf, 0.0)
    assert clustered_t(-3 * tokens, tokens)["t"] == -np.inf
