"""Every figure of a condition's entry against the tokens that it was made of."""

import json

import numpy as np
import pytest
from scipy import stats

from sae_nfm.findings.entries import entries
from sae_nfm.measures.divergence import TOP_N
from scored_tokens import CONTEXT, DRAWS, NAMES, TOP, Tokens, interval, summary_of


@pytest.mark.parametrize("name", NAMES)
def test_the_kl_of_a_condition(tokens, summary, name):
    draws = tokens.kl_draws[name][:, tokens.scored].ravel()
    entry = entries(summary)[name]
    kl = entry["kl"]
    assert entry["n"] == draws.size
    assert entry["draws"] == DRAWS.get(name, 1)
    assert kl["mean"] == pytest.approx(tokens.of(name, "kl").mean())
    assert kl["mean"] == pytest.approx(draws.mean())
    assert kl["ci95"] == pytest.approx(interval(tokens.by_document(name), tokens.tokens_by_document()))
    assert kl["ci95"][0] <= kl["mean"] <= kl["ci95"][1]
    assert kl["std"] == pytest.approx(draws.std(ddof=1))
    assert kl["median"] == pytest.approx(np.median(draws), rel=0.01)
    assert (kl["min"], kl["max"]) == (draws.min(), draws.max())


@pytest.mark.parametrize("name", NAMES)
def test_the_histogram_holds_every_kl_between_its_edges(tokens, summary, name):
    draws = tokens.kl_draws[name][:, tokens.scored].ravel()
    histogram = entries(summary)[name]["kl"]["histogram"]
    edges, counts = histogram["edges"], histogram["counts"]
    assert len(edges) == len(counts) + 1
    assert sum(counts) == draws.size
    assert counts[0] > 0
    assert counts[-1] > 0
    if name != "clean":
        np.testing.assert_array_equal(np.histogram(draws, edges)[0], counts)


@pytest.mark.parametrize("name", NAMES)
def test_the_other_means_of_a_condition(tokens, summary, name):
    entry = entries(summary)[name]
    assert entry["ce"] == pytest.approx(tokens.of(name, "ce").mean())
    for key, measure in {"top1_agreement": "agreement", "l2": "l2", "mse": "mse", "cosine": "cosine"}.items():
        assert entry[key] == pytest.approx(tokens.of(name, measure).mean())
    increase = tokens.of(name, "ce").mean() - tokens.of("clean", "ce").mean()
    assert entry["ce_increase"] == pytest.approx(increase)
    assert entry["ce_increase_ci95"][0] <= increase <= entry["ce_increase_ci95"][1]
    whole = tokens.of("zero", "ce").mean() - tokens.of("clean", "ce").mean()
    assert entry["loss_recovered"] == pytest.approx(1 - increase / whole)


def test_loss_recovered_spans_clean_and_zero(summary):
    assert entries(summary)["clean"]["loss_recovered"] == 1
    assert entries(summary)["zero"]["loss_recovered"] == pytest.approx(0)


def test_no_loss_is_recovered_where_a_zero_vector_may_cost_none():
    costs_nothing = Tokens()
    ce = costs_nothing.measures.index("ce")
    costs_nothing.values["zero"][ce] = np.random.default_rng(1).permuted(costs_nothing.values["clean"][ce])
    assert entries(summary_of(costs_nothing))["sae"]["loss_recovered"] is None


def test_the_interval_of_the_ce_increase_keeps_the_pairing(tokens, summary):
    """Both lack the same document at a time, and count the tokens that have a target."""
    targets = np.array(
        [
            (tokens.documents[tokens.has_target] == document).sum()
            for document in np.unique(tokens.documents[tokens.scored])
        ],
        dtype=float,
    )
    differences = tokens.by_document("sae", "ce") - tokens.by_document("clean", "ce")
    assert entries(summary)["sae"]["ce_increase_ci95"] == pytest.approx(interval(differences, targets))


def test_positions_have_means_and_intervals_over_documents(tokens, summary):
    found = entries(summary)["sae"]["by_position"]
    kl = tokens.values["sae"][0]
    assert found["kl"][0] is None
    assert found["ci95"][0] is None
    for position in range(1, CONTEXT):
        here = tokens.scored[:, position]
        values, documents = kl[here, position], tokens.documents[here, position]
        off = [(values[documents == d] - values.mean()).sum() for d in np.unique(documents)]
        error = (len(off) / (len(off) - 1) * np.square(off).sum()) ** 0.5 / len(values)
        margin = stats.t.ppf(0.975, len(off) - 1) * error
        assert found["kl"][position] == pytest.approx(values.mean())
        assert found["ci95"][position] == pytest.approx([values.mean() - margin, values.mean() + margin])


def test_the_top_measures_are_told_where_they_were_taken():
    tokens = Tokens(top_n=TOP)
    entry = entries(summary_of(tokens, top_n=TOP))["sae"]
    found = {f"top_n_{name}": value for name, value in entry["top_n"].items()} | entry
    assert entry["top_n"]["n"] == TOP
    for name in TOP_N:
        assert found[name] == pytest.approx(tokens.of("sae", name).mean())
    assert not [name for name in entry if name.startswith("top_n_")]


def test_they_are_not_told_where_they_were_not_taken(summary):
    assert not {"top_n", "js", "reverse_kl"} & set(entries(summary)["sae"])


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_is_plain_json(summary, name):
    entry = entries(summary)[name]
    assert json.loads(json.dumps(entry, allow_nan=False)) == entry


def test_a_median_of_equal_values_is_that_value():
    tokens = Tokens()
    for name in NAMES:
        tokens.kl_draws[name][:] = 0.123
    kl = entries(summary_of(tokens))["sae"]["kl"]
    assert kl["median"] == kl["min"] == kl["max"] == 0.123


def test_an_entry_says_what_its_condition_is(summary):
    said = {
        name: tuple(found[key] for key in ("role", "reconstruction", "baseline"))
        for name, found in entries(summary).items()
    }
    assert said == {
        "clean": ("clean", None, None),
        "sae": ("sae", "sae", None),
        "sae_nfm": ("nfm", "sae_nfm", None),
        "zero": ("zero", "zero", None),
        "eps(sae)": ("baseline", "sae", "eps"),
    }
