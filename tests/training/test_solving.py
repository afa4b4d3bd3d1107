"""Solved controls on real activations: the ridge that held-out tokens choose, and what they explain."""

import json

import pytest
import torch
from safetensors.torch import load_file

from sae_nfm.models.least_squares import RIDGES, NormalEquations
from sae_nfm.models.residuals.linear import DecoderRefit
from sae_nfm.training.solving import METRICS, WEIGHTS, solve
from small_training import Bench


@pytest.fixture(scope="module")
def solved(lm, splits, tmp_path_factory):
    bench, folder, control = Bench(lm, splits), tmp_path_factory.mktemp("solved"), DecoderRefit()
    autoencoder, data = bench.autoencoder(), bench.data()
    control.build(autoencoder.sae.d_in, autoencoder.sae.d_sae)
    solve(control, autoencoder, data.training, 3000, data.validation, 300, folder)
    return autoencoder, data, control, folder


def left(autoencoder, x, control):
    explained = autoencoder.explain(x)
    residual = explained.target - explained.decoded
    predicted = control.residual(explained.target, explained.codes)
    return ((residual - predicted).pow(2).sum() / residual.pow(2).sum()).item()


def test_it_explains_what_it_says_of_held_out_activations(solved):
    autoencoder, data, control, folder = solved
    metrics = json.loads((folder / METRICS).read_text())
    with torch.no_grad():
        found = 1 - left(autoencoder, data.validation.read(0, 300), control)
    assert metrics["residual_explained"] == pytest.approx(found, abs=1e-5)
    assert metrics["residual_explained"] > 0.01
    assert metrics["train_tokens"] == 3000


@torch.no_grad()
def test_no_other_ridge_is_better_on_held_out_activations(solved):
    autoencoder, data, control, folder = solved
    explained = autoencoder.explain(data.training.read(0, 3000))
    equations = NormalEquations(64, autoencoder.sae.d_in, True, torch.device("cpu"))
    equations.add(explained.codes, explained.target - explained.decoded)
    other, x, lefts = DecoderRefit(), data.validation.read(0, 300), {}
    other.build(autoencoder.sae.d_in, 64)
    for ridge in RIDGES:
        other.set_(*equations.solve(ridge))
        lefts[ridge] = left(autoencoder, x, other)
    best = min(lefts, key=lefts.get)
    assert json.loads((folder / METRICS).read_text())["ridge"] == best
    assert lefts[best] < max(lefts.values())
    assert left(autoencoder, x, control) == pytest.approx(lefts[best], rel=1e-4)


def test_the_weights_are_those_of_the_control(solved):
    _, _, control, folder = solved
    for name, tensor in load_file(folder / WEIGHTS).items():
        assert torch.equal(tensor, control.state_dict()[name])
