"""What every SAE family has to be, each against its formula written out."""

import copy

import pytest
import torch
from every_family import D_IN, D_SAE, FAMILIES, L0, Training, features, loss_of, randomized

from sae_nfm.evaluation.clean import content_of
from sae_nfm.models.saes import base
from sae_nfm.models.saes.firing import Firing


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.fixture
def sae(family):
    torch.manual_seed(0)
    return randomized(family.make())


@pytest.fixture
def x():
    return torch.randn(24, D_IN, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("subtracts", [True, False])
def test_its_codes_are_its_formula(family, sae, x, subtracts):
    sae.subtracts_b_dec = subtracts
    codes = sae.encode(x)
    expected = family.latents(sae, x)
    assert 0 < (expected > 0).sum() < expected.numel()
    torch.testing.assert_close(codes.dense(D_SAE), expected)
    torch.testing.assert_close(sae.decode(codes), expected @ sae.W_dec + sae.b_dec)
    torch.testing.assert_close(sae(x), sae.decode(codes))
    assert codes.values.shape[1] == (expected > 0).sum(1).max() or codes.values.shape[1] == L0


def test_a_token_is_encoded_alike_whatever_is_beside_it(sae, x):
    together = sae.encode(x).dense(D_SAE)
    for token in range(len(x)):
        alone = sae.encode(x[token : token + 1]).dense(D_SAE)
        torch.testing.assert_close(alone, together[token : token + 1])
    torch.testing.assert_close(sae.encode(x.view(4, 6, D_IN)).dense(D_SAE).view(24, D_SAE), together)


def test_an_attempts_codes_are_what_it_reconstructs_by(family, sae, x):
    """Models of the residual read them, in training on the same batch: values and gradients agree."""
    attempt = sae.attempt(x, Firing(D_SAE))
    codes = attempt.codes()
    torch.testing.assert_close(codes.dense(D_SAE), family.in_training(sae, x))
    torch.testing.assert_close(sae.decode(codes), attempt.reconstruction)
    parameters = [parameter for parameter in sae.parameters() if parameter.requires_grad]
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    expected, found = (
        torch.autograd.grad((made * weights).sum(), parameters, retain_graph=True, allow_unused=True)
        for made in (attempt.reconstruction, sae.decode(codes))
    )
    assert any(gradient is not None and gradient.norm() > 0 for gradient in found)
    for a, b in zip(found, expected, strict=True):
        assert (a is None) is (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)


def test_tokens_without_an_active_latent_are_decoded_to_the_bias(sae, x):
    with torch.no_grad():
        sae.W_enc_rows.zero_()
        for name in ("b_enc", "b_gate"):
            if getattr(sae, name, None) is not None:
                getattr(sae, name).fill_(-1)
    codes = sae.encode(x)
    assert codes.values.shape[1] >= 1
    assert codes.values.abs().max() == 0
    torch.testing.assert_close(sae(x), sae.b_dec.expand(24, D_IN))
    assert sae.encode(x[:0]).values.shape[0] == 0


def test_its_attempt_is_its_formula_on_a_batch_in_value_and_gradient(family, sae, x):
    attempt = sae.attempt(x, Firing(D_SAE))
    latents = family.in_training(sae, x)
    expected = latents @ sae.W_dec + sae.b_dec
    torch.testing.assert_close(attempt.reconstruction, expected)
    assert attempt.fired.tolist() == (latents > 0).any(0).tolist()
    assert attempt.l0.item() == pytest.approx((latents > 0).sum(1).double().mean().item())

    target = torch.randn(24, D_IN, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    named = {
        name: each for name, each in sae.named_parameters() if name != "threshold"
    }  # estimated, not felt
    gradients = [
        torch.autograd.grad((found - target).pow(2).sum(), list(named.values()), allow_unused=True)
        for found in (attempt.reconstruction, expected)
    ]
    for name, ours, theirs in zip(named, *gradients, strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)


def test_its_terms_are_finite_and_every_parameter_has_a_gradient(sae, x):
    firing = Firing(D_SAE)
    firing.count(torch.arange(D_SAE) > 3, torch.tensor(9.0), 10**6)
    attempt = sae.attempt(x, firing)
    assert all(term.shape == () and term.isfinite() for term in attempt.terms.values())
    assert attempt.terms  # 4 latents are dead
    loss_of(attempt, x).backward()
    for name, parameter in sae.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_nothing_is_moved_by_an_attempt(sae, x):
    firing = Firing(D_SAE)
    before = copy.deepcopy(sae.state_dict()), copy.deepcopy(firing.state_dict())
    sae.attempt(x, firing)
    for then, now in zip(before, (sae.state_dict(), firing.state_dict()), strict=True):
        assert all(torch.equal(then[name], now[name]) for name in then)


def test_it_starts_at_the_l0_that_it_is_to_have(family):
    torch.manual_seed(0)
    sae, sample = family.make(), features(2048)
    sae.initialize_(sample)
    l0 = (sae.encode(sample).values > 0).sum(1).float().mean().item()
    assert l0 == pytest.approx(L0, rel=0.05)
    assert (sample - sae(sample)).pow(2).sum() < (sample - sae.b_dec).pow(2).sum()


def test_training_explains_more_keeps_unit_rows_and_brings_l0_to_its_target(family):
    torch.manual_seed(0)
    sae = family.make(l0=6)
    sae.initialize_(features(2048))
    setattr(sae, family.target, 3)
    training = Training(sae)
    unexplained, counts = zip(*training.run(250), strict=True)
    assert sum(unexplained[-10:]) / 10 < 0.85 * unexplained[0]
    assert sum(counts[-10:]) / 10 == pytest.approx(3, rel=0.1)
    held_out = features(4096, seed=5)
    assert (sae.encode(held_out).values > 0).sum(1).float().mean().item() == pytest.approx(3, rel=0.1)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(D_SAE))


def test_a_run_that_is_resumed_from_its_state_goes_on_bit_for_bit(family):
    def start():
        torch.manual_seed(0)
        sae = family.make()
        sae.initialize_(features(512))
        return Training(sae)

    whole, first, second = start(), start(), start()
    found = whole.run(12)
    first.run(7)
    saved = {name: copy.deepcopy(part.state_dict()) for name, part in first.parts().items()}
    for name, part in second.parts().items():
        part.load_state_dict(saved[name])
    second.step = 7
    assert second.run(5) == found[7:]
    for name, tensor in whole.sae.state_dict().items():
        assert torch.equal(tensor, second.sae.state_dict()[name]), name


def test_a_loaded_state_gives_the_same_reconstruction(family, sae, x):
    torch.manual_seed(1)
    other = family.make().double()
    assert not torch.equal(other(x), sae(x))
    other.load_state_dict(sae.state_dict())
    assert torch.equal(other(x), sae(x))


def test_it_trains_in_mixed_precision(family):
    torch.manual_seed(0)
    sae, x = family.make(), features(64)
    sae.initialize_(x)
    firing = Firing(D_SAE)
    firing.count(torch.arange(D_SAE) > 3, torch.tensor(9.0), 10**6)
    with torch.autocast("cpu", torch.bfloat16):
        attempt = sae.attempt(x, firing)
        loss = loss_of(attempt, x)
    loss.backward()
    full = sae.attempt(x, firing)
    assert loss.item() == pytest.approx(loss_of(full, x).item(), rel=0.05)
    assert all(each.grad.dtype == torch.float32 and each.grad.isfinite().all() for each in sae.parameters())


def test_it_is_called_by_its_file(family, sae):
    assert FAMILIES[sae.family] is family


def test_studies_tell_it_from_others_by_its_settings_and_each_of_its_numbers(family, sae):
    assert content_of(copy.deepcopy(sae)) == content_of(sae)
    for name in sae.state_dict():
        other = copy.deepcopy(sae)
        with torch.no_grad():
            other.state_dict()[name].add_(1)
        assert content_of(other) != content_of(sae), name
    denser = family.make(l0=L0 + 1).double()
    denser.load_state_dict(sae.state_dict())
    assert content_of(denser) != content_of(sae)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_what_training_begins_with_is_found_some_tokens_at_a_time(family, monkeypatch):
    sae, x = randomized(FAMILIES[family].make()), features(512)
    pre = sae.pre_activations(x)
    expected = pre.flatten().sort(descending=True).values[512 * L0 - 1]
    torch.testing.assert_close(base.active_above(sae, x, L0), expected, rtol=0, atol=0)
    monkeypatch.setattr(base, "_ELEMENTS", 7 * D_SAE)
    torch.testing.assert_close(base.active_above(sae, x, L0), expected)
    assert base.active_above(sae, x, D_SAE + 1) == pytest.approx(float(pre.min()))
