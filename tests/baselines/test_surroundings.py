"""What is measured of a site's activations, against the activations themselves."""

import torch

from sae_nfm.baselines import surroundings
from sae_nfm.data.activations import ActivationStream
from sae_nfm.lm.site import Site

SITE = Site(1, "resid_post")


def test_mean_covariance_and_bank_are_those_of_the_activations(lm, splits, tmp_path, monkeypatch):
    monkeypatch.setattr(surroundings, "_CHUNK", 700)
    training = ActivationStream(lm, SITE, splits.train, 20, 0)
    validation = ActivationStream(lm, SITE, splits.validation, 20, 3)
    surroundings.measure(training, validation, 2000, 50, tmp_path)
    found = surroundings.load(tmp_path)
    x = training.read(0, 2000).double()
    torch.testing.assert_close(found.mean.double(), x.mean(0), rtol=1e-4, atol=1e-5)
    covariance = (x - x.mean(0)).T @ (x - x.mean(0)) / len(x)
    factor = found.factor.double()
    torch.testing.assert_close(factor @ factor.T, covariance, rtol=1e-3, atol=1e-3)
    assert torch.equal(found.bank, validation.read(0, 50))
    assert {tensor.dtype for tensor in found} == {torch.float32}


def test_a_small_split_gives_the_bank_that_it_has(lm, splits, tmp_path):
    validation = ActivationStream(lm, SITE, splits.validation, 20, 0)
    surroundings.measure(validation, validation, 300, 10**9, tmp_path)
    assert len(surroundings.load(tmp_path).bank) == validation.tokens_per_round
