"""ReLU and gated SAEs: λ that follows L0, the lift of dead latents, and what trains the gates."""

import math

import pytest
import torch

from sae_nfm.models.saes.base import variance
from sae_nfm.models.saes.firing import Firing
from sae_nfm.models.saes.gated import GatedSAE
from sae_nfm.models.saes.penalty import GAIN, RATE, START, l1_term, lift_terms
from sae_nfm.models.saes.relu import ReLUSAE

D_IN, D_SAE, TOKENS = 8, 32, 40
ALIVE = torch.ones(D_SAE, dtype=torch.bool)


@pytest.fixture
def x():
    return torch.randn(TOKENS, D_IN, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_firing_knows_the_excess_of_l0_in_the_last_step_and_over_all():
    firing = Firing(D_SAE)
    assert [each.item() for each in firing.excess(4.0)] == [0, 0]
    for l0 in (8.0, 2.0, 6.0):
        firing.count(ALIVE, torch.tensor(l0), 10)
    last, summed = firing.excess(4.0)
    assert last.item() == pytest.approx(math.log(1.5))
    assert summed.item() == pytest.approx(math.log(2) + math.log(0.5) + math.log(1.5))
    assert firing.excess(8.0)[1].item() == pytest.approx(math.log(1 / 4) + math.log(0.75))
    firing.count(ALIVE, torch.tensor(0.0), 10)
    assert all(each.isfinite() for each in firing.excess(4.0))


def test_the_penalty_is_in_units_of_the_spread_and_grows_with_every_step_above_the_target(x):
    firing, f = Firing(D_SAE), torch.rand(TOKENS, D_SAE, dtype=torch.float64)
    unit = f.sum(1).mean() / (variance(x) / TOKENS).sqrt()
    torch.testing.assert_close(l1_term(f.flatten(), x, firing, 4), START * unit)
    torch.testing.assert_close(l1_term(7 * f.flatten(), 7 * x, firing, 4), START * unit)
    firing.count(ALIVE, torch.tensor(8.0), 10)
    torch.testing.assert_close(l1_term(f.flatten(), x, firing, 4), START * 2 ** (GAIN + RATE) * unit)
    firing.count(ALIVE, torch.tensor(4.0), 10)
    torch.testing.assert_close(l1_term(f.flatten(), x, firing, 4), START * 2**RATE * unit)


@pytest.mark.parametrize(("cls", "name"), [(ReLUSAE, "b_enc"), (GatedSAE, "b_gate")])
def test_dead_latents_are_lifted_by_their_biases_alone(cls, name, x):
    sae, dead = cls(D_IN, D_SAE).double(), torch.arange(D_SAE) % 3 == 0
    bias = getattr(sae, name)
    with torch.no_grad():
        bias.fill_(-1)
    assert lift_terms(sae, x, bias, ~ALIVE, 0.5) == {}
    assert lift_terms(sae, x, bias, dead, 0.0) == {}
    (term,) = lift_terms(sae, x, bias, dead, 0.5).values()
    below = (1 - (x - sae.b_dec) @ sae.W_enc).relu()[:, dead]
    torch.testing.assert_close(term, 0.5 * below.sum() / (TOKENS * D_SAE))
    term.backward()
    torch.testing.assert_close(bias.grad[dead], -0.5 * (below > 0).double().mean(0) / D_SAE)
    assert bias.grad[~dead].abs().max() == 0
    assert sae.W_enc_rows.grad is None


@pytest.mark.parametrize("cls", [ReLUSAE, GatedSAE])
def test_a_latent_that_fell_silent_is_lifted_until_it_fires(cls, x):
    """With nothing else in the loss."""
    torch.manual_seed(0)
    sae, firing = cls(D_IN, D_SAE, dead_after=2 * TOKENS).double(), Firing(D_SAE)
    bias = sae.b_gate if cls is GatedSAE else sae.b_enc
    with torch.no_grad():
        bias[3] = -4
    optimizer = torch.optim.Adam([bias], lr=0.1)
    for _ in range(60):
        attempt = sae.attempt(x, firing)
        firing.count(attempt.fired, attempt.l0, TOKENS)
        optimizer.zero_grad()
        if "lift" in attempt.terms:
            attempt.terms["lift"].backward()
            optimizer.step()
    assert -4 < bias[3] < 0
    assert firing.tokens_since[3] < 60 * TOKENS


def test_relu_adds_its_penalty(x):
    torch.manual_seed(0)
    sae = ReLUSAE(D_IN, D_SAE, l0=4).double()
    firing = Firing(D_SAE)
    torch.testing.assert_close(
        sae.attempt(x, firing).terms, {"l1": l1_term(sae.latents(x).flatten(), x, firing, 4)}
    )


def test_the_gates_are_trained_by_a_reconstruction_of_their_own(x):
    torch.manual_seed(0)
    sae, firing = GatedSAE(D_IN, D_SAE, l0=4, b_dec_init="zero").double(), Firing(D_SAE)
    with torch.no_grad():
        for each in (sae.b_gate, sae.b_mag, sae.r_mag, sae.b_dec):
            each.normal_(std=0.3)
    terms = sae.attempt(x, firing).terms
    opened = ((x - sae.b_dec) @ sae.W_enc + sae.b_gate).relu()
    by_gates = opened @ sae.W_dec.detach() + sae.b_dec.detach()
    error = (x - by_gates).pow(2).sum() / variance(x)
    torch.testing.assert_close(terms, {"l1": l1_term(opened.flatten(), x, firing, 4), "gates": error})
    parameters = (sae.W_enc_rows, sae.b_gate, sae.b_dec)
    ours = torch.autograd.grad(terms["gates"], parameters, retain_graph=True)
    torch.testing.assert_close(ours, torch.autograd.grad(error, parameters))
    unfelt = torch.autograd.grad(terms["gates"], (sae.W_dec, sae.b_mag, sae.r_mag), allow_unused=True)
    assert unfelt == (None, None, None)


def test_behind_an_open_gate_no_magnitude_stays_negative():
    sae = GatedSAE(D_IN, 3).double()
    with torch.no_grad():
        sae.b_gate.copy_(torch.tensor([-1.0, -1.0, 0.5]))
        sae.r_mag.copy_(torch.tensor([0.0, 1.0, 0.0]))
        sae.b_mag.copy_(torch.tensor([-3.0, -2.0, -1.0]))
    sae.after_step_()
    assert sae.b_mag.tolist() == [-1, -2, 0.5]
    x = torch.randn(2000, D_IN, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(sae.latents(x) > 0, sae.pre_activations(x) > 0)
