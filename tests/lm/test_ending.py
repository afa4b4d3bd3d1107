"""The layers behind a site without the logits, which are made some tokens at a time."""

import pytest
import torch

from random_lms import D, VOCABULARY, random_lm
from sae_nfm.lm.ending import Ending
from sae_nfm.lm.site import Site

SITES = [Site(0, "resid_pre"), Site(1, "mlp_out"), Site(2, "resid_post")]
TOKENS = torch.randint(2, VOCABULARY, (2, 16), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.name)
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "neox", "gemma2"])
def test_logits_are_the_models(architecture, site):
    lm = random_lm(architecture)
    prefix = lm.prefix(TOKENS, site)
    ending = Ending(lm, site)
    reached = ending(prefix.activation * 1.1, prefix.resid)
    assert reached.shape == (2, 16, D)
    some = torch.cat([ending.logits(reached[:, :5]), ending.logits(reached[:, 5:])], dim=1)
    torch.testing.assert_close(some, lm.suffix(prefix.activation * 1.1, prefix.resid, site))


def test_a_model_that_does_more_with_its_logits_makes_them_itself(monkeypatch):
    lm, site = random_lm("gpt2"), Site(1, "resid_post")
    forward = type(lm.model).forward

    def scaled(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        output.logits = output.logits * 0.5
        return output

    monkeypatch.setattr(type(lm.model), "forward", scaled)
    prefix = lm.prefix(TOKENS, site)
    ending = Ending(lm, site)
    reached = ending(prefix.activation, prefix.resid)
    whole = lm.suffix(prefix.activation, prefix.resid, site)
    assert torch.equal(ending.logits(reached), whole)
    assert reached.shape == (2, 16, VOCABULARY)


def test_nothing_has_a_gradient():
    lm, site = random_lm("gpt2"), Site(1, "resid_post")
    prefix = lm.prefix(TOKENS, site)
    assert not Ending(lm, site)(prefix.activation.clone().requires_grad_(), prefix.resid).requires_grad
