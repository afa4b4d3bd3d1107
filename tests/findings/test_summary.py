"""Every figure of a summary against the tokens that it was made of."""

import json

import numpy as np
import pytest
import torch
from scipy import stats

from sae_nfm.evaluation.condition import Condition
from sae_nfm.findings.statistics import clustered_t, holm
from sae_nfm.findings.summary import Summary
from sae_nfm.measures.divergence import TOP_N
from sae_nfm.measures.sums import EvaluationSums, TokenValues, measures

BLOCKS, CONTEXT, DOCUMENTS, TOP = 40, 7, 25, 5
NAMES = ("clean", "sae", "sae_nfm", "zero", "eps(sae)")
DRAWS = {"eps(sae)": 3}
CONDITIONS = [Condition(name, None, None, DRAWS.get(name, 1)) for name in NAMES]
LEVEL = {"clean": 0.0, "sae": 1.0, "sae_nfm": 0.7, "zero": 5.0, "eps(sae)": 0.4}


class Tokens:
    """What was measured at every scored token, as plain arrays."""

    def __init__(self, top_n=0, num_documents=DOCUMENTS):
        generator = np.random.default_rng(0)
        shape = (BLOCKS, CONTEXT)
        self.documents = np.sort(generator.integers(num_documents, size=shape).ravel()).reshape(shape)
        self.scored = generator.random(shape) > 0.2
        self.scored[:, 0] = False
        self.has_target = self.scored & (np.arange(CONTEXT) < CONTEXT - 1)
        of_document = np.exp(generator.normal(0, 0.5, num_documents))[self.documents]
        self.kl_draws = {
            name: LEVEL[name] * of_document * generator.lognormal(0, 0.7, (DRAWS.get(name, 1), *shape))
            for name in NAMES
        }
        self.measures = measures(top_n)
        self.values = {name: generator.random((len(self.measures), *shape)) for name in NAMES}
        for name in NAMES:
            self.values[name][0] = self.kl_draws[name].mean(0)
            self.values[name][1] = 3 + 0.9 * self.values[name][0]

    def sums(self):
        metric = EvaluationSums(self.measures, len(NAMES), CONTEXT, DOCUMENTS + 3)
        metric.update(
            TokenValues(
                torch.from_numpy(np.stack([self.values[name] for name in NAMES], axis=1)),
                [torch.from_numpy(self.kl_draws[name]) for name in NAMES],
                *map(torch.from_numpy, (self.scored, self.has_target, self.documents)),
            )
        )
        return metric.compute()

    def of(self, name, measure):
        """A measure at every token that it is averaged over."""
        chosen = self.has_target if measure == "ce" else self.scored
        return self.values[name][self.measures.index(measure)][chosen]

    def by_document(self, name, measure="kl"):
        values = self.of(name, measure)
        chosen = self.has_target if measure == "ce" else self.scored
        present = np.unique(self.documents[self.scored])
        return np.array([values[self.documents[chosen] == document].sum() for document in present])

    def tokens_by_document(self):
        return np.unique(self.documents[self.scored], return_counts=True)[1].astype(float)


def summary_of(tokens, top_n=0):
    return Summary(CONDITIONS, tokens.sums(), top_n)


@pytest.fixture
def tokens():
    return Tokens()


@pytest.fixture
def summary(tokens):
    return summary_of(tokens)


def interval(numerator, denominator):
    """The jackknife interval of a quotient of two sums over documents, one document left out at a time."""
    num, value = len(numerator), numerator.sum() / denominator.sum()
    others = [np.delete(numerator, i).sum() / np.delete(denominator, i).sum() for i in range(num)]
    margin = stats.t.ppf(0.975, num - 1) * np.sqrt((num - 1) / num * np.square(others - value).sum())
    return [value - margin, value + margin]


@pytest.mark.parametrize("name", NAMES)
def test_the_kl_of_a_condition(tokens, summary, name):
    draws = tokens.kl_draws[name][:, tokens.scored].ravel()
    entry = summary.condition(name)
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
    histogram = summary.condition(name)["kl"]["histogram"]
    edges, counts = histogram["edges"], histogram["counts"]
    assert len(edges) == len(counts) + 1
    assert sum(counts) == draws.size
    assert counts[0] > 0
    assert counts[-1] > 0
    if name != "clean":
        np.testing.assert_array_equal(np.histogram(draws, edges)[0], counts)


@pytest.mark.parametrize("name", NAMES)
def test_the_other_means_of_a_condition(tokens, summary, name):
    entry = summary.condition(name)
    assert entry["ce"] == pytest.approx(tokens.of(name, "ce").mean())
    for key, measure in {"top1_agreement": "agreement", "l2": "l2", "mse": "mse", "cosine": "cosine"}.items():
        assert entry[key] == pytest.approx(tokens.of(name, measure).mean())
    increase = tokens.of(name, "ce").mean() - tokens.of("clean", "ce").mean()
    assert entry["ce_increase"] == pytest.approx(increase)
    assert entry["ce_increase_ci95"][0] <= increase <= entry["ce_increase_ci95"][1]
    whole = tokens.of("zero", "ce").mean() - tokens.of("clean", "ce").mean()
    assert entry["loss_recovered"] == pytest.approx(1 - increase / whole)


def test_loss_recovered_spans_clean_and_zero(summary):
    assert summary.condition("clean")["loss_recovered"] == 1
    assert summary.condition("zero")["loss_recovered"] == pytest.approx(0)


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
    assert summary.condition("sae")["ce_increase_ci95"] == pytest.approx(interval(differences, targets))


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


def test_positions_have_means_and_intervals_over_documents(tokens, summary):
    found = summary.condition("sae")["by_position"]
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


def test_paired_tests(tokens, summary):
    (test,) = summary.tests([("sae", "sae_nfm")])
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
    (test,) = summary.tests([("sae", "eps(sae)")])
    a, b = (tokens.kl_draws[name][:, tokens.scored].ravel() for name in ("sae", "eps(sae)"))
    expected = stats.ttest_ind(a, b)
    assert len(b) == 3 * len(a)
    assert test["unpaired_t_as_published"]["t"] == pytest.approx(expected.statistic)
    assert test["unpaired_t_as_published"]["p"] == pytest.approx(expected.pvalue, rel=1e-6)


def test_p_values_are_adjusted_over_the_family_of_pairs(summary):
    pairs = [("sae", "sae_nfm"), ("sae", "eps(sae)"), ("sae_nfm", "eps(sae)")]
    tests = summary.tests(pairs)
    assert [(test["a"], test["b"]) for test in tests] == pairs
    p = [test["paired_t_clustered"]["p"] for test in tests]
    assert [test["p_holm"] for test in tests] == holm(p)
    assert summary.tests([]) == []


def test_conditions_that_are_equal_have_no_effect_and_no_nan(summary):
    """As `sae_nfm` and `sae_linear` are where the NFM has no interaction part."""
    (test,) = summary.tests([("sae", "sae")])
    assert (test["paired_t_clustered"]["t"], test["paired_t_clustered"]["p"], test["p_holm"]) == (0, 1, 1)
    assert test["cohens_d"] == 0
    assert test["fraction_worse"] == 0
    json.dumps(test, allow_nan=False)


def test_documents_without_a_scored_token_are_left_out(tokens, summary):
    assert len(summary.tokens) == len(np.unique(tokens.documents[tokens.scored])) <= DOCUMENTS
    assert summary.tokens.min() > 0


def test_the_top_measures_are_told_where_they_were_taken():
    tokens = Tokens(top_n=TOP)
    entry = summary_of(tokens, top_n=TOP).condition("sae")
    found = {f"top_n_{name}": value for name, value in entry["top_n"].items()} | entry
    assert entry["top_n"]["n"] == TOP
    for name in TOP_N:
        assert found[name] == pytest.approx(tokens.of("sae", name).mean())
    assert not [name for name in entry if name.startswith("top_n_")]


def test_they_are_not_told_where_they_were_not_taken(summary):
    assert not {"top_n", "js", "reverse_kl"} & set(summary.condition("sae"))


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_is_plain_json(summary, name):
    entry = summary.condition(name)
    assert json.loads(json.dumps(entry, allow_nan=False)) == entry


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
    sums = {name: summary._documents("kl", name) for name in NAMES}
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


def test_a_median_of_equal_values_is_that_value():
    tokens = Tokens()
    for name in NAMES:
        tokens.kl_draws[name][:] = 0.123
    kl = summary_of(tokens).condition("sae")["kl"]
    assert kl["median"] == kl["min"] == kl["max"] == 0.123
