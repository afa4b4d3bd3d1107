"""Sums over scored tokens against numpy, however the tokens come in batches."""

import numpy as np
import pytest
import torch

from sae_nfm.measures.sums import (
    HISTOGRAM_BINS,
    EvaluationSums,
    TokenValues,
    histogram_bin,
    histogram_edges,
    measures,
)

BLOCKS, CONTEXT, DOCUMENTS = 12, 9, 6
DRAWS = (1, 1, 4)
MEASURES = measures(top_n=0)


@pytest.fixture
def values():
    """Three conditions, the last of four draws; a fifth of the positions is not scored."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    scored = random(BLOCKS, CONTEXT) > 0.2
    has_target = scored & (random(BLOCKS, CONTEXT) > 0.1)
    kl_draws = [(6 * random(draws, BLOCKS, CONTEXT) - 4).exp() for draws in DRAWS]
    by_measure = random(len(MEASURES), len(DRAWS), BLOCKS, CONTEXT)
    by_measure[0] = torch.stack([draws.mean(0) for draws in kl_draws])
    documents = torch.randint(DOCUMENTS - 1, (BLOCKS, CONTEXT), generator=generator)  # the last has no token
    return TokenValues(by_measure, kl_draws, scored, has_target, documents)


def batch(values, start, stop):
    return TokenValues(
        values.by_measure[:, :, start:stop],
        [draws[:, start:stop] for draws in values.kl_draws],
        *(part[start:stop] for part in values[2:]),
    )


def sums_of(values, size=BLOCKS):
    sums = EvaluationSums(MEASURES, len(DRAWS), CONTEXT, DOCUMENTS)
    for start in range(0, BLOCKS, size):
        part = batch(values, start, start + size)
        sums.update(TokenValues(part.by_measure.clone(), *part[1:]))
    return {name: value.numpy() for name, value in sums.compute().items()}


@pytest.fixture
def sums(values):
    return sums_of(values)


def test_moments_and_extremes_are_over_every_draw(values, sums):
    for condition, draws in enumerate(values.kl_draws):
        kl = draws[:, values.scored].numpy().ravel()
        assert sums["draws"][condition] == kl.size
        assert sums["kl_sum"][condition] == pytest.approx(kl.sum(), rel=1e-12)
        assert sums["kl_squared"][condition] == pytest.approx((kl**2).sum(), rel=1e-12)
        assert (sums["kl_min"][condition], sums["kl_max"][condition]) == (kl.min(), kl.max())


def test_documents_hold_the_sums_of_their_scored_tokens(values, sums):
    documents, scored = values.documents.numpy(), values.scored.numpy()
    for document in range(DOCUMENTS):
        of_document = scored & (documents == document)
        with_target = values.has_target.numpy() & (documents == document)
        assert sums["tokens_by_document"][document] == of_document.sum()
        assert sums["targets_by_document"][document] == with_target.sum()
        for number, measure in enumerate(MEASURES):
            chosen = with_target if measure == "ce" else of_document
            expected = values.by_measure[number].numpy()[:, chosen].sum(1)
            np.testing.assert_allclose(sums["by_document"][number, :, document], expected, rtol=1e-12)
    assert sums["tokens_by_document"][-1] == 0


def test_positions_hold_the_sums_of_mean_kl_by_group_of_documents(values):
    apart = values._replace(documents=values.documents + 255)  # documents 0 and 1 are now 255 and 256
    sums = EvaluationSums(MEASURES, len(DRAWS), CONTEXT, DOCUMENTS + 255)
    sums.update(apart._replace(by_measure=apart.by_measure.clone()))
    found = {name: value.numpy() for name, value in sums.compute().items()}
    kl, scored = values.by_measure[0].numpy(), values.scored.numpy()
    np.testing.assert_array_equal(found["tokens_by_position"].sum(0), scored.sum(0))
    np.testing.assert_allclose(found["by_position"].sum(1), (kl * scored).sum(1), rtol=1e-12)
    for group, document in ((255, 0), (0, 1), (1, 2)):
        chosen = scored & (values.documents.numpy() == document)
        np.testing.assert_array_equal(found["tokens_by_position"][group], chosen.sum(0))
        np.testing.assert_allclose(found["by_position"][:, group], (kl * chosen).sum(1), rtol=1e-12)


def test_pairs_hold_products_and_counts_of_the_worse(values, sums):
    kl = values.by_measure[0].numpy()[:, values.scored.numpy()]
    for a in range(len(DRAWS)):
        for b in range(len(DRAWS)):
            assert sums["products"][a, b] == pytest.approx((kl[a] * kl[b]).sum(), rel=1e-12)
            assert sums["worse"][a, b] == (kl[a] > kl[b]).sum()


def test_what_is_not_scored_counts_nowhere(values):
    expected = sums_of(values)
    values.by_measure[:, :, ~values.scored] = 1e9
    for draws in values.kl_draws:
        draws[:, ~values.scored] = 1e9
    for name, value in sums_of(values).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.parametrize("size", [1, 5, 7])
def test_the_batches_make_no_difference(values, sums, size):
    for name, value in sums_of(values, size).items():
        np.testing.assert_allclose(value, sums[name], rtol=1e-12, err_msg=name)


def test_a_batch_without_a_scored_token_adds_nothing(values, sums):
    metric = EvaluationSums(MEASURES, len(DRAWS), CONTEXT, DOCUMENTS)
    metric.update(values)
    nothing = torch.zeros_like(values.scored)
    metric.update(values._replace(scored=nothing, has_target=nothing))
    for name, value in metric.compute().items():
        np.testing.assert_array_equal(value.numpy(), sums[name], err_msg=name)


def test_single_precision_values_are_summed_in_double(values):
    single = TokenValues(values.by_measure.float(), [draws.float() for draws in values.kl_draws], *values[2:])
    sums = sums_of(single, size=1)
    assert {value.dtype.kind for value in sums.values()} == {"f", "i"}
    kl = single.kl_draws[2][:, values.scored].double().numpy()
    assert sums["kl_sum"][2] == pytest.approx(kl.sum(), rel=1e-12)


def median_of(kl):
    """The median as the histogram gives it: the middle of the bin that holds it."""
    counts = torch.bincount(histogram_bin(kl), minlength=HISTOGRAM_BINS)
    middle = int(torch.searchsorted(counts.cumsum(0), (len(kl) + 1) // 2))
    edges = histogram_edges()
    return (edges[middle] * edges[middle + 1]).sqrt().item()


@pytest.mark.parametrize("centre", [1e-6, 1e-3, 0.276, 1.77, 30.0])
def test_the_histogram_gives_the_median_within_one_percent(centre):
    noise = torch.randn(10_001, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kl = centre * noise.exp()
    assert median_of(kl) == pytest.approx(kl.median().item(), rel=0.01)


def test_every_bin_holds_what_is_between_its_edges():
    edges = histogram_edges()
    assert len(edges) == HISTOGRAM_BINS + 1
    middles = (edges[:-1] * edges[1:]).sqrt()
    assert torch.equal(histogram_bin(middles), torch.arange(HISTOGRAM_BINS))
    assert edges[0] <= 1e-12
    assert edges[-1] > 1000


def test_values_beyond_the_edges_are_counted_in_the_bins_at_the_ends():
    kl = torch.tensor([0.0, -1e-7, 1e-20, 5000.0, torch.inf], dtype=torch.float64)
    last = HISTOGRAM_BINS - 1
    assert histogram_bin(kl).tolist() == [0, 0, 0, last, last]


def test_the_measures_of_top_tokens_are_there_where_they_are_asked_for():
    assert measures(0)[:2] == measures(10)[:2] == ("kl", "ce")
    assert {"top_n_kl", "js"} == {"top_n_kl", "js"} & set(measures(10))
    assert set(measures(0)) < set(measures(10))
    assert not any(name.startswith("top_n") for name in measures(0))


def test_sums_of_processes_are_added_and_extremes_kept():
    """What each state becomes where two processes hold 1 and 3."""
    sums = EvaluationSums(MEASURES, 2, CONTEXT, DOCUMENTS)
    both = torch.tensor([1.0, 3.0])
    extremes = {"kl_min": 1.0, "kl_max": 3.0}
    for name, reduce in sums._reductions.items():
        assert reduce(both) == extremes.get(name, 4.0), name
