"""Explained variance and its companions against hand-computed cases."""

import pytest
import torch

from sae_nfm.measures.quality import DictionaryQuality
from sae_nfm.models.codes import Codes
from small_models import make_autoencoder, make_parts

# Three tokens with the mean (4, 10), far from 0: variance about it is 4 + 0 + 4 in x and 0 in y.
X = torch.tensor([[2.0, 10.0], [4.0, 10.0], [6.0, 10.0]])
SAE = torch.tensor([[3.0, 10.0], [4.0, 10.0], [6.0, 9.0]])  # squared errors 1, 0, 1
CODES = Codes(torch.tensor([[1.0, 0.5], [2.0, 0.0], [0.3, 0.0]]), torch.tensor([[0, 3], [0, 1], [4, 2]]))
LINEAR = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [0.0, 0.5]])
INTERACTION = torch.tensor([[0.0, 0.0], [0.0, 0.5], [0.0, 0.0]])


def quality(sae, linear=None, interaction=None):
    metric = DictionaryQuality(2, 6)
    metric.update(make_parts(X, CODES, sae, linear, interaction))
    return metric.compute()


def test_explained_variance_is_about_the_mean_and_not_about_zero():
    figures = quality(SAE)
    assert figures["explained_variance"] == pytest.approx(1 - 2 / 8)
    assert figures["mse"] == pytest.approx(2 / 6)


def test_the_mean_explains_nothing_and_the_activation_everything():
    mean = X.mean(0, keepdim=True).expand_as(X)
    assert quality(mean)["explained_variance"] == pytest.approx(0)
    assert quality(X)["explained_variance"] == 1


def test_l0_and_dead_count_positive_values_only():
    figures = quality(SAE)
    assert figures["l0"] == pytest.approx(4 / 3)
    assert figures["dead_fraction"] == pytest.approx(3 / 6)  # 1, 2 and 5: 1 and 2 are chosen, but at 0


def test_residual_explained_and_interaction_share():
    figures = quality(SAE, LINEAR, INTERACTION)
    # r = (−1, 0), (0, 0), (0, 1); left: 0, 0.5², 0.5²
    assert figures["residual_explained"] == pytest.approx(1 - 0.5 / 2)
    assert figures["interaction_share"] == pytest.approx(0.5 / (1.5 + 0.5))


def test_without_an_nfm_the_residuals_figures_are_none():
    figures = quality(SAE)
    assert figures["residual_explained"] is None
    assert figures["interaction_share"] is None


def test_a_part_that_is_off_has_no_share_and_two_that_are_off_are_no_nan():
    zero = torch.zeros_like(LINEAR)
    assert quality(SAE, LINEAR, zero)["interaction_share"] == 0
    assert quality(SAE, zero, INTERACTION)["interaction_share"] == 1
    nothing = quality(SAE, zero, zero)
    assert nothing["interaction_share"] == 0
    assert nothing["residual_explained"] == 0


def test_batches_add_up():
    autoencoder = make_autoencoder(10, d_sae=32, k=3)
    x = torch.randn(50, 10) + 5
    whole, split = DictionaryQuality(10, 32), DictionaryQuality(10, 32)
    with torch.no_grad():
        whole.update(autoencoder(x))
        for part in x.split([1, 20, 29]):
            split.update(autoencoder(part))
    assert split.compute() == pytest.approx(whole.compute(), rel=1e-6)


def test_sums_are_wide_enough_for_a_large_mean():
    """In float32 Σx² − n·mean² would lose the variance of 1 beside the mean of 10,000."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 2, generator=generator) + 10_000
    sae = x + 0.5
    codes = Codes(torch.ones(20_000, 1), torch.zeros(20_000, 1, dtype=torch.int64))
    metric = DictionaryQuality(2, 1)
    for a, b, values, indices in zip(*(t.split(1000) for t in (x, sae, *codes)), strict=True):
        metric.update(make_parts(a, Codes(values, indices), b))
    variance = (x.double() - x.double().mean(0)).pow(2).sum()
    expected = 1 - (x.double() - sae.double()).pow(2).sum() / variance
    assert metric.compute()["explained_variance"] == pytest.approx(expected.item(), abs=1e-6)


def test_reset_forgets():
    metric = DictionaryQuality(2, 6)
    metric.update(make_parts(X * 9, CODES, SAE, LINEAR, INTERACTION))
    metric.reset()
    metric.update(make_parts(X, CODES, SAE))
    assert metric.compute() == quality(SAE)


def test_sums_of_processes_are_added():
    quality = DictionaryQuality(4, 8)
    both = torch.tensor([1.0, 3.0])
    for name, reduce in quality._reductions.items():
        assert reduce(both) == (3.0 if name == "has_residual" else 4.0), name
