"""The map to dictionary units: what it makes of its sample, and its inverse."""

import pytest
import torch

from sae_nfm.models.normalizer import Normalizer

D_IN = 8


@pytest.fixture
def sample():
    generator = torch.Generator().manual_seed(0)
    scales = torch.linspace(0.5, 20, D_IN)
    return torch.randn(5000, D_IN, generator=generator) * scales + torch.linspace(-30, 30, D_IN)


def fitted(sample, kind):
    normalizer = Normalizer(D_IN, kind)
    normalizer.fit(sample)
    return normalizer


def test_scalar_makes_the_mean_squared_norm_d_and_moves_nothing(sample):
    normalizer = fitted(sample, "scalar")
    squared = normalizer(sample).double().pow(2).sum(-1).mean()
    assert squared.item() == pytest.approx(D_IN, rel=1e-5)
    assert normalizer.mean.abs().max() == 0
    assert normalizer.scale.unique().numel() == 1


def test_per_dimension_gives_every_coordinate_mean_zero_and_variance_one(sample):
    z = fitted(sample, "per_dimension")(sample).double()
    torch.testing.assert_close(z.mean(0), torch.zeros(D_IN).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.var(0), torch.ones(D_IN).double(), atol=1e-4, rtol=0)


def test_per_dimension_survives_a_coordinate_that_never_moves(sample):
    sample[:, 2] = 3.0
    z = fitted(sample, "per_dimension")(sample)
    assert z.isfinite().all()
    assert z[:, 2].abs().max() < 1e-3


def test_none_leaves_activations_as_they_are(sample):
    assert torch.equal(fitted(sample, "none")(sample), sample)


@pytest.mark.parametrize("kind", ["scalar", "per_dimension", "none"])
def test_inverse_takes_points_and_differences_back(sample, kind):
    normalizer = fitted(sample, kind)
    a, b = sample[:100].view(4, 25, D_IN), sample[100:200].view(4, 25, D_IN)
    units = normalizer.units(a)
    torch.testing.assert_close(units.inverse(normalizer(a)), a, rtol=1e-5, atol=1e-4)
    difference = units.inverse_difference(normalizer(a) - normalizer(b))
    torch.testing.assert_close(difference, a - b, rtol=1e-5, atol=1e-4)


def test_half_precision_activations_are_normalised_in_the_buffers_precision(sample):
    normalizer = fitted(sample, "per_dimension")
    half = sample.bfloat16()
    assert normalizer(half).dtype == torch.float32
    assert torch.equal(normalizer(half), normalizer(half.float()))


def test_mean_and_scale_are_kept_with_the_weights(sample):
    normalizer, copy = fitted(sample, "per_dimension"), Normalizer(D_IN)
    copy.load_state_dict(normalizer.state_dict())
    assert torch.equal(copy(sample), normalizer(sample))
    assert not list(normalizer.parameters())


def test_an_unknown_kind_is_named_with_what_is_allowed(sample):
    with pytest.raises(ValueError, match="normalizer=zscore: allowed are scalar, per_dimension, none"):
        fitted(sample, "zscore")


def test_a_constant_dimension_is_not_blown_up():
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(500, 4, generator=generator)
    sample[:, 1] = 3 + 1e-7 * torch.randn(500, generator=generator)
    normalizer = Normalizer(4, "per_dimension")
    normalizer.fit(sample)
    unseen = sample[:5].clone()
    unseen[:, 1] += 1e-5
    assert normalizer(unseen)[:, 1].abs().max() < 1e-4
    torch.testing.assert_close(normalizer.units(unseen).inverse(normalizer(unseen)), unseen)


def test_token_norm_gives_every_token_the_norm_of_its_width_and_takes_it_back(sample):
    normalizer = Normalizer(D_IN, "token_norm")
    z = normalizer(sample)
    torch.testing.assert_close(z.norm(dim=1), torch.full((len(sample),), D_IN**0.5))
    torch.testing.assert_close(normalizer.units(sample).inverse(z), sample)
    torch.testing.assert_close(normalizer.units(sample).inverse_difference(z - z / 2), sample / 2)


def test_layer_norm_standardises_every_token_and_takes_it_back_as_published(sample):
    """SAELens divides by the deviation plus 1e-5, and multiplies by the deviation."""
    normalizer = Normalizer(D_IN, "layer_norm")
    z, deviation = normalizer(sample), sample.std(1, keepdim=True)
    torch.testing.assert_close(z, (sample - sample.mean(1, keepdim=True)) / (deviation + 1e-5))
    expected = z * deviation + sample.mean(1, keepdim=True)
    torch.testing.assert_close(normalizer.units(sample).inverse(z), expected)


@pytest.mark.parametrize("kind", ["token_norm", "layer_norm"])
def test_what_is_not_fitted_refuses_to_be(sample, kind):
    with pytest.raises(ValueError, match=r"normalizer=.*_norm: allowed are scalar"):
        fitted(sample, kind)
