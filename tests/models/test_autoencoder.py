"""One reconstruction: what training computes in dictionary units is what the splice puts into the model."""

import pytest
import torch

from sae_nfm.models.normalizer import Normalizer
from small_models import make_autoencoder

D_IN = 12


@pytest.fixture
def x():
    return torch.randn(3, 7, D_IN, generator=torch.Generator().manual_seed(5)) * 4 + 1


@pytest.fixture(params=["scalar", "per_dimension", "none"])
def autoencoder(x, request):
    autoencoder = make_autoencoder(D_IN)
    autoencoder.normalizer = Normalizer(D_IN, request.param)
    autoencoder.normalizer.fit(x.flatten(0, 1))
    return autoencoder


def test_the_form_that_is_trained_and_the_form_that_is_spliced_are_equal(autoencoder, x):
    """`SAETask` and `NFMTask` work in normalised units; `forward` returns the model's."""
    z = autoencoder.normalizer(x)
    codes = autoencoder.sae.encode(z)
    trained_sae = autoencoder.sae.decode(codes)
    trained_nfm = autoencoder.nfm(codes)

    parts = autoencoder(x)

    torch.testing.assert_close(autoencoder.normalizer(parts.sae), trained_sae, rtol=1e-5, atol=1e-5)
    spliced = parts.sae + parts.linear + parts.interaction
    trained = trained_sae + trained_nfm.total
    torch.testing.assert_close(autoencoder.normalizer(spliced), trained, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        spliced, autoencoder.normalizer.units(x).inverse(trained), rtol=1e-5, atol=1e-5
    )
    assert trained_nfm.interaction.norm() > 0


def test_the_residual_that_training_predicts_is_the_error_of_the_splice(autoencoder, x):
    z = autoencoder.normalizer(x)
    codes = autoencoder.sae.encode(z)
    residual = z - autoencoder.sae.decode(codes)
    error = residual - autoencoder.nfm(codes).total

    parts = autoencoder(x)

    in_model_units = autoencoder.normalizer.units(x).inverse_difference(error)
    spliced = parts.sae + parts.linear + parts.interaction
    torch.testing.assert_close(x - spliced, in_model_units, rtol=1e-4, atol=1e-5)


def test_codes_are_those_of_the_normalised_activation(autoencoder, x):
    codes, expected = autoencoder(x).codes, autoencoder.sae.encode(autoencoder.normalizer(x))
    assert torch.equal(codes.indices, expected.indices)
    assert torch.equal(codes.values, expected.values)


def test_an_nfm_changes_nothing_about_the_sae_part():
    x = torch.randn(5, D_IN)
    assert torch.equal(make_autoencoder(D_IN, nfm=False)(x).sae, make_autoencoder(D_IN)(x).sae)


def test_without_an_nfm_there_are_no_residual_parts():
    parts = make_autoencoder(D_IN, nfm=False)(torch.randn(5, D_IN))
    assert parts.linear is None
    assert parts.interaction is None
