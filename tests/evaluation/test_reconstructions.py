"""Reconstructions, each by its formula."""

import pytest
import torch

from sae_nfm.evaluation.reconstructions import (
    FromControl,
    FromMLP,
    FromParts,
    Identity,
    Mean,
    Planted,
    Spliceable,
    WideSAE,
    Zero,
    modules,
)
from sae_nfm.models.residuals.linear import AffineMap, DecoderRefit, OutputBias
from sae_nfm.models.residuals.mlp import CodesMLP
from small_models import make_autoencoder

D = 12


@pytest.fixture
def autoencoder():
    return make_autoencoder(D)


@pytest.fixture
def batch(autoencoder):
    x = torch.randn(2, 5, D, generator=torch.Generator().manual_seed(1)) * 3 + 1
    return Spliceable(x, autoencoder(x), torch.arange(2), 0, None)


@pytest.mark.parametrize(
    ("made", "role"),
    [
        (Identity(), "identity"),
        (FromParts([]), "sae"),
        (FromParts(["linear"]), "linear"),
        (FromParts(["interaction"]), "interaction"),
        (FromParts(["linear", "interaction"]), "nfm"),
        (FromParts(["interaction", "linear"]), "nfm"),
        (FromControl(DecoderRefit()), "refit"),
        (FromControl(OutputBias()), "control"),
        (FromControl(AffineMap()), "control"),
        (FromMLP(None, support=False, rounds=1), "control"),
        (FromMLP(8, support=True, rounds=1), "codes_bound"),
        (WideSAE(), "control"),
        (Planted(), "planted"),
        (Zero(), "zero"),
        (Mean(), "mean"),
    ],
)
def test_what_is_made_has_its_role_whatever_it_is_called(made, role):
    assert made.role == role


def test_parts_are_added_to_the_sae(batch):
    parts = batch.parts
    assert torch.equal(Identity()(batch), batch.x)
    assert torch.equal(FromParts([])(batch), parts.sae)
    assert torch.equal(FromParts(["linear"])(batch), parts.sae + parts.linear)
    assert torch.equal(FromParts(["interaction"])(batch), parts.sae + parts.interaction)
    assert torch.equal(
        FromParts(["linear", "interaction"])(batch), parts.sae + parts.linear + parts.interaction
    )


@pytest.mark.parametrize("kind", [OutputBias, DecoderRefit, AffineMap])
def test_a_control_corrects_in_the_units_of_the_normaliser(autoencoder, batch, kind):
    control = kind()
    control.build(D, 64)
    for parameter in (control.weight, control.bias):
        torch.nn.init.normal_(parameter)
    reconstruction = FromControl(control)
    reconstruction.autoencoder = autoencoder
    normalised = autoencoder.normalizer(batch.x)
    expected = autoencoder.normalizer(batch.parts.sae) + control.residual(normalised, batch.parts.codes)
    torch.testing.assert_close(autoencoder.normalizer(reconstruction(batch)), expected, rtol=1e-4, atol=1e-4)
    assert modules(reconstruction) == [control, autoencoder]


def test_an_mlp_corrects_as_a_control_does(autoencoder, batch):
    reconstruction = FromMLP(d_hidden=8, support=True, rounds=3)
    assert (reconstruction.d_hidden, reconstruction.support, reconstruction.rounds) == (8, True, 3)
    assert reconstruction.control is None
    reconstruction.control, reconstruction.autoencoder = CodesMLP(64, D, 8, True), autoencoder
    torch.nn.init.normal_(reconstruction.control.W_2)
    expected = reconstruction.control(batch.parts.codes).total * autoencoder.normalizer.scale
    torch.testing.assert_close(reconstruction(batch) - batch.parts.sae, expected, rtol=1e-3, atol=1e-4)
    assert reconstruction.control.b is not None
    assert reconstruction.control.W_lin is not None


def test_the_wider_sae_and_what_was_planted(batch):
    wide, planted = WideSAE(), torch.randn(2, 5, D)
    wide.autoencoder = make_autoencoder(D, d_sae=128, nfm=False, seed=3)
    assert torch.equal(wide(batch), wide.autoencoder(batch.x).sae)
    assert modules(wide) == [wide.autoencoder]
    of_planted = batch._replace(parts=batch.parts._replace(planted=planted))
    assert torch.equal(Planted()(of_planted), batch.parts.sae + planted)
