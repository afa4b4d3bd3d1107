"""Differences, ratios and shares against the tokens that they were made of."""

import numpy as np
import pytest
from scipy import stats

from scored_tokens import CONTEXT, DOCUMENTS, NAMES, Tokens, interval, summary_of


def test_ratios_reductions_and_differences(tokens, summary):
    sae, nfm = tokens.by_document("sae"), tokens.by_document("sae_nfm")
    ratio, reduction = summary.ratio("kl", "sae_nfm", "sae"), summary.reduction("kl", "sae_nfm", "sae")
    assert ratio.value == pytest.approx(nfm.sum() / sae.sum())
    assert ratio.ci95 == pytest.approx(interval(nfm, sae))
    assert reduction.value == pytest.approx(1 - ratio.value)
    assert reduction.ci95 == pytest.approx((1 - ratio.ci95[1], 1 - ratio.ci95[0]))
    difference = summary.difference("kl", "sae", "sae_nfm")
    assert difference.value == pytest.approx((sae - nfm).sum() / tokens.scored.sum())
    assert difference.ci95 == pytest.approx(interval(sae - nfm, tokens.tokens_by_document()))


def test_there_is_no_ratio_to_a_divergence_of_zero(summary):
    assert summary.ratio("kl", "sae", "clean") is None
    assert summary.reduction("kl", "sae", "clean") is None
    assert summary.ratio("kl", "clean", "sae").value == 0


def test_documents_without_a_scored_token_are_left_out(tokens, summary):
    assert len(summary.tokens) == len(np.unique(tokens.documents[tokens.scored])) <= DOCUMENTS
    assert summary.tokens.min() > 0


def test_a_single_document_is_refused():
    with pytest.raises(
        ValueError,
        match=r"eval_tokens=\d+: they come from 1 document; allowed are so many that they come from 2",
    ):
        summary_of(Tokens(num_documents=1))


def test_a_difference_of_ratios_keeps_the_pairing(summary):
    estimate = summary.ratio_difference("kl", ("sae", "eps(sae)"), ("sae_nfm", "eps(sae)"))
    one, other = summary.ratio("kl", "sae", "eps(sae)"), summary.ratio("kl", "sae_nfm", "eps(sae)")
    assert estimate.value == pytest.approx(one.value - other.value, rel=1e-12)
    same = summary.ratio_difference("kl", ("sae", "eps(sae)"), ("sae", "eps(sae)"))
    assert (same.value, same.ci95) == (0, (0, 0))
    assert summary.ratio_difference("kl", ("sae", "clean"), ("sae", "eps(sae)")) is None


def test_the_share_of_what_another_condition_takes_off(summary, tokens):
    share = summary.share("kl", "sae_nfm", "eps(sae)", "sae")
    mean = {
        name: tokens.kl_draws[name].mean(0)[tokens.scored].mean() for name in ("sae", "sae_nfm", "eps(sae)")
    }
    expected = (mean["sae"] - mean["sae_nfm"]) / (mean["sae"] - mean["eps(sae)"])
    assert share.value == pytest.approx(expected)
    assert share.ci95[0] < share.value < share.ci95[1]
    assert summary.share("kl", "sae_nfm", "zero", "sae") is None


def jackknife(summary, figure):
    """The interval of a function of the mean KLs, one document left out at a time."""
    sums = {name: summary.documents("kl", name) for name in NAMES}
    counts, num = summary.tokens, len(summary.tokens)
    value = figure({name: kl.sum() / counts.sum() for name, kl in sums.items()})
    without = [
        figure({name: np.delete(kl, i).sum() / np.delete(counts, i).sum() for name, kl in sums.items()})
        for i in range(num)
    ]
    margin = stats.t.ppf(0.975, num - 1) * np.sqrt(
        (num - 1) / num * np.square(np.array(without) - value).sum()
    )
    return value, (value - margin, value + margin)


def test_intervals_of_shares_and_of_differences_of_ratios_are_those_of_the_whole_expression(summary):
    share = summary.share("kl", "sae_nfm", "eps(sae)", "sae")
    value, interval = jackknife(
        summary, lambda kl: (kl["sae"] - kl["sae_nfm"]) / (kl["sae"] - kl["eps(sae)"])
    )
    assert share.value == pytest.approx(value)
    assert share.ci95 == pytest.approx(interval)
    change = summary.ratio_difference("kl", ("sae", "eps(sae)"), ("sae_nfm", "sae"))
    value, interval = jackknife(summary, lambda kl: kl["sae"] / kl["eps(sae)"] - kl["sae_nfm"] / kl["sae"])
    assert change.value == pytest.approx(value)
    assert change.ci95 == pytest.approx(interval)
    assert summary.share("kl", "sae_nfm", "zero", "sae") is None  # which takes off nothing


def test_squared_errors_are_averaged_over_tokens(tokens, summary):
    sae, nfm = tokens.of("sae", "mse").mean(), tokens.of("sae_nfm", "mse").mean()
    assert summary.reduction("mse", "sae_nfm", "sae").value == pytest.approx(1 - nfm / sae)


def test_two_documents_with_one_token_each_are_enough():
    tokens = Tokens(num_documents=2)
    tokens.scored[:] = False
    first, last = np.argwhere(tokens.documents == 0)[0], np.argwhere(tokens.documents == 1)[0]
    tokens.scored[tuple(first)] = tokens.scored[tuple(last)] = True
    tokens.has_target = tokens.scored & (np.arange(CONTEXT) < CONTEXT - 1)
    assert len(summary_of(tokens).tokens) == 2
