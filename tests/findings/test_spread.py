"""Bins, paired differences and the documents' shares, against the tokens that they were made of."""

import numpy as np
import pytest

from sae_nfm.findings.spread import across_documents, along_context, spread
from sae_nfm.measures.sums import GROUPS
from scored_tokens import CONTEXT, Tokens, interval, summary_of

BINS = [(1, 1), (2, 3), (4, 5)]  # of 7 positions: the first is never scored, the last is left out


def in_bin(tokens, values, first, last):
    """Σ of a per-token array within a bin, by document; documents are fewer than groups."""
    position = np.arange(CONTEXT)
    chosen = tokens.scored & (first <= position) & (position <= last)
    return np.bincount(tokens.documents[chosen], values[chosen], minlength=tokens.documents.max() + 1)


def kl(tokens, name):
    return tokens.values[name][0]


def test_bins_double_and_leave_out_the_last_position(summary, tokens):
    found = along_context(summary)
    assert [tuple(each) for each in found["bins"]] == BINS
    counted = [in_bin(tokens, np.ones_like(kl(tokens, "sae")), *each).sum() for each in BINS]
    assert found["tokens"] == counted
    for name in ("sae", "eps(sae)"):
        sums = [in_bin(tokens, kl(tokens, name), *each).sum() for each in BINS]
        assert found["kl"][name] == pytest.approx(np.divide(sums, counted))


def test_differences_by_position_are_paired(summary, tokens):
    found = along_context(summary)
    (difference,) = (d for d in found["differences"] if (d["a"], d["b"]) == ("sae_nfm", "sae"))
    paired = kl(tokens, "sae_nfm") - kl(tokens, "sae")
    for i, each in enumerate(BINS):
        chosen = in_bin(tokens, np.ones_like(paired), *each)
        assert difference["value"][i] == pytest.approx(in_bin(tokens, paired, *each).sum() / chosen.sum())
        low, high = difference["ci95"][i]
        assert low < difference["value"][i] < high
        a, b = (interval(in_bin(tokens, kl(tokens, name), *each), chosen) for name in ("sae", "sae_nfm"))
        assert high - low < (a[1] - a[0]) + (b[1] - b[0])


def test_the_gain_by_position_and_its_change(summary, tokens):
    gain = along_context(summary)["reduction"]
    for i, each in enumerate(BINS):
        above, below = (in_bin(tokens, kl(tokens, name), *each) for name in ("sae_nfm", "sae"))
        kept = in_bin(tokens, np.ones_like(kl(tokens, "sae")), 1, CONTEXT - 2) > 0
        low, high = interval(above[kept], below[kept])
        assert gain["value"][i] == pytest.approx(1 - above.sum() / below.sum())
        assert gain["ci95"][i] == pytest.approx([1 - high, 1 - low])
    assert gain["early"]["positions"] == [1, 3]
    assert gain["late"]["positions"] == [4, 5]
    assert gain["change"]["value"] == pytest.approx(gain["late"]["value"] - gain["early"]["value"])


def test_a_gain_that_depends_on_the_position_is_told_from_one_that_does_not():
    changes = []
    for slope in (0.0, 0.4):
        tokens = Tokens()
        share = 0.2 + slope * (np.arange(CONTEXT) > 3)
        tokens.values["sae_nfm"][0] = kl(tokens, "sae") * (1 - share)
        changes.append(along_context(summary_of(tokens))["reduction"]["change"])
    assert changes[0]["value"] == pytest.approx(0, abs=1e-9)
    assert changes[1]["value"] == pytest.approx(0.4)
    assert changes[1]["ci95"][0] > 0.39


def test_where_the_kl_may_be_0_there_is_no_share_of_it():
    tokens = Tokens()
    position = np.arange(CONTEXT)
    kl(tokens, "sae")[:] = np.where(position < 4, kl(tokens, "sae"), kl(tokens, "sae") - 1)  # by rounding
    gain = along_context(summary_of(tokens))["reduction"]
    assert np.isnan(gain["value"]).tolist() == [False, False, True]
    assert np.isnan(gain["ci95"][-1]).all()
    assert np.isfinite(gain["early"]["value"])
    assert np.isnan([gain["late"]["value"], gain["change"]["value"]]).all()


def test_documents_of_more_than_the_groups_are_added_up():
    tokens = Tokens(num_documents=25)
    summary = summary_of(tokens)
    groups = (summary.sums["tokens_by_position"].sum(1) > 0).sum()
    assert groups == len(summary.tokens) <= GROUPS
    assert along_context(summary)["tokens"] == [
        int(summary.sums["tokens_by_position"][:, a : b + 1].sum()) for a, b in BINS
    ]


def test_ratios_of_documents(summary, tokens):
    (found,) = across_documents(summary)  # there is no linear part
    over, under = tokens.by_document("sae_nfm"), tokens.by_document("sae")
    assert (found["a"], found["b"], found["documents"]) == ("sae_nfm", "sae", len(over))
    assert found["lower"] == pytest.approx((over < under).mean())
    assert sum(found["log_ratio"]["counts"]) == len(over)
    assert found["log_ratio"]["quartiles"][1] == pytest.approx(np.median(np.log(over / under)))
    fall, size = under - over, tokens.tokens_by_document()
    most = np.argsort(-fall)[: round(0.1 * len(fall))]
    assert found["top_tenth"]["fall"] == pytest.approx(fall[most].sum() / fall.sum())
    assert found["top_tenth"]["tokens"] == pytest.approx(size[most].sum() / size.sum())


def test_without_a_fall_there_is_no_share_of_it():
    tokens = Tokens()
    tokens.values["sae_nfm"][0] = 2 * kl(tokens, "sae")
    (found,) = across_documents(summary_of(tokens))
    assert found["top_tenth"]["fall"] is None
    assert found["lower"] == 0
    assert found["log_ratio"]["quartiles"] == pytest.approx([np.log(2)] * 3)


def test_where_one_position_is_scored_nothing_is_said_of_positions():
    tokens = Tokens()
    tokens.scored &= np.arange(CONTEXT) == 2
    tokens.has_target = tokens.scored
    assert spread(summary_of(tokens))["along_context"] is None
