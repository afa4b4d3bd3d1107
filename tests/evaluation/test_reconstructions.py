"""Reconstructions, each by its formula."""

from types import SimpleNamespace

import pytest
import torch

from sae_nfm.baselines.spliceable import Spliceable
from sae_nfm.evaluation import reconstructions
from sae_nfm.evaluation.reconstructions import (
    Corrected,
    FromAutoencoder,
    FromControl,
    FromMLP,
    FromParts,
    Identity,
    Mean,
    OneAfterTheOther,
    Planted,
    PlantedPart,
    WideSAE,
    WithoutParts,
    Zero,
)
from sae_nfm.models.residuals.linear import AffineMap, DecoderRefit, OutputBias
from sae_nfm.models.residuals.mlp import CodesMLP
from sae_nfm.recipes.course import Step
from sae_nfm.recipes.recipe import Foundation
from small_models import make_autoencoder

D = 12


@pytest.fixture
def autoencoder():
    return make_autoencoder(D)


@pytest.fixture
def batch(autoencoder):
    x = torch.randn(2, 5, D, generator=torch.Generator().manual_seed(1)) * 3 + 1
    return Spliceable(x, autoencoder(x), torch.arange(2), 0, None, {})


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
    normalised = autoencoder.normalizer(batch.x)
    expected = autoencoder.normalizer(batch.parts.sae) + control.residual(normalised, batch.parts.codes)
    found = autoencoder.normalizer(Corrected(control)(batch))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_an_mlp_corrects_as_a_control_does(autoencoder, batch):
    mlp = CodesMLP(64, D, 8, True)
    torch.nn.init.normal_(mlp.W_2)
    expected = mlp(batch.parts.codes).total * autoencoder.normalizer.scale
    torch.testing.assert_close(Corrected(mlp)(batch) - batch.parts.sae, expected, rtol=1e-3, atol=1e-4)


def test_another_sae_and_what_was_planted(batch):
    wide, planted = make_autoencoder(D, d_sae=128, nfm=False, seed=3), torch.randn(2, 5, D)
    assert torch.equal(FromAutoencoder(wide)(batch), wide(batch.x).sae)
    of_planted = batch._replace(parts=batch.parts._replace(planted=planted))
    assert torch.equal(PlantedPart()(of_planted), batch.parts.sae + planted)


class Bench:
    """A workshop that notes what it is asked for."""

    def __init__(self, autoencoder):
        self.autoencoder, self.asked = autoencoder, []
        self.activations = SimpleNamespace(seed=0)
        self.foundation = Foundation(self.activations, autoencoder, "sae", None)

    def nfm_size(self):
        return 5000

    def solved(self, name, control):
        self.asked.append((name, control))
        return control


@pytest.fixture
def workshop(autoencoder, monkeypatch):
    """A workshop that notes what it is asked for, where every candidate is finished at once."""
    bench = Bench(autoencoder)

    def finished(candidate, workshop):
        bench.asked.append(candidate)
        if candidate.wider is None:
            candidate.foundation, candidate.nfm = bench.foundation, candidate.build(64, D)
        else:
            wide = make_autoencoder(D, d_sae=128, nfm=False)
            candidate.foundation = Foundation(bench.activations, wide, "wide", None)
        return candidate

    monkeypatch.setattr(reconstructions, "finished", finished)
    return bench


def test_controls_are_built_of_what_the_workshop_makes(autoencoder, workshop):
    refit = DecoderRefit()
    assert FromControl(refit).build("refit", workshop).control is refit
    mlp = FromMLP(d_hidden=8, support=True, rounds=3).build("bound", workshop).control
    assert (mlp.W_1.shape[1], mlp.W_support is None) == (8, False)
    sized = FromMLP(d_hidden=None, support=False, rounds=1).build("mlp", workshop).control
    assert sized.W_1.shape[1] == CodesMLP.hidden_for(5000, 64, D, False)
    assert WideSAE().build("wide", workshop).autoencoder.sae.d_sae == 128
    size = sum(parameter.numel() for parameter in autoencoder.sae.parameters())
    node = {"_target_": "sae_nfm.models.residuals.mlp.CodesMLP", "d_hidden": 8, "support": True}
    asked, bound, _, wide = workshop.asked
    assert asked == ("refit", refit)
    assert (bound.name, bound.node, bound.rounds) == ("bound", node, 3)
    assert (wide.name, wide.there, wide.wider) == ("wide", {"sae"}, size + 5000)


def test_what_was_planted_is_as_it_is_where_nothing_is_tuned(workshop):
    making, fitting = (Step(how, how, frozenset(), None) for how in ("make", "fit"))
    node = {"linear": True, "bias": True}
    workshop.order = SimpleNamespace(nfm_node=node, course=(making, fitting))
    assert isinstance(Planted().build("sae_planted", workshop), PlantedPart)
    workshop.order = SimpleNamespace(nfm_node=None, course=(making, Step("tune", "tune", frozenset(), None)))
    assert isinstance(Planted().build("sae_planted", workshop), PlantedPart)


ROLES = {
    "identity": (Identity(), set()),
    "sae": (FromParts([]), set()),
    "linear": (FromParts(["linear"]), {"nfm"}),
    "interaction": (FromParts(["interaction"]), {"nfm"}),
    "nfm": (FromParts(["linear", "interaction"]), {"nfm"}),
    "refit": (FromControl(DecoderRefit()), {"latent_solution"}),
    "control": (FromControl(AffineMap()), set()),
    "codes_bound": (FromMLP(8, True, 1), {"latent_solution"}),
    "planted": (Planted(), {"plant"}),
    "linear_alone": (WithoutParts(["interaction"]), {"nfm", "together"}),
    "sae_alone": (WithoutParts(["linear", "interaction"]), {"nfm", "tuned"}),
    "sequential": (OneAfterTheOther(), {"nfm", "joint"}),
    "zero": (Zero(), set()),
    "mean": (Mean(), {"surroundings"}),
}


@pytest.mark.parametrize("role", ROLES)
def test_every_reconstruction_says_its_role_and_what_it_needs(role):
    reconstruction, needs = ROLES[role]
    assert (reconstruction.role, reconstruction.needs) == (role, needs)


def test_an_mlp_of_the_nfms_size_needs_the_nfm():
    assert FromMLP(None, False, 1).needs == {"latent_solution", "nfm"}
    assert FromMLP(None, False, 1).role == WideSAE().role == "control"
    assert WideSAE().needs == {"nfm", "trained_sae"}
