"""JumpReLU: the estimated derivatives in θ, and what its loss adds."""

import pytest
import torch

from sae_nfm.models.codes import grouped_by_latent
from sae_nfm.models.entries import Entries
from sae_nfm.models.saes.firing import Firing
from sae_nfm.models.saes.jumprelu import JumpReLUSAE
from sae_nfm.models.saes.jumprelu import jump as jump_of_entries

WIDTH = 0.5


def jump(pre, threshold, bandwidth):
    """Of pre-activations that are written out, all of which are entries."""
    num_tokens, d_sae = pre.shape
    tokens = torch.arange(num_tokens).repeat_interleave(d_sae)
    latents = torch.arange(d_sae).repeat(num_tokens)
    entries = Entries(pre.flatten(), tokens, latents, *grouped_by_latent(latents, d_sae))
    f, counts = jump_of_entries(entries, threshold, bandwidth)
    return f.values.view_as(pre), counts


@pytest.fixture
def pre():
    return torch.randn(
        200, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).requires_grad_()


@pytest.fixture
def threshold():
    return torch.linspace(0, 1.5, 6, dtype=torch.float64).requires_grad_()


def test_jump_is_a_step_at_the_threshold(pre, threshold):
    f, counts = jump(pre, threshold, WIDTH)
    torch.testing.assert_close(f, torch.where(pre > threshold, pre, 0))
    assert counts.tolist() == (pre > threshold).sum(0).tolist()
    at = jump(threshold.detach().view(1, 6), threshold, WIDTH)
    assert at[0].abs().max() == at[1].abs().max() == 0


def test_its_derivatives_in_the_threshold_are_those_of_a_ramp(pre, threshold):
    """Rajamanoharan et al. 2024, equations 11 and 12, with a rectangle for a kernel."""
    f, counts = jump(pre, threshold, WIDTH)
    upstream = torch.randn(200, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weight = torch.arange(1.0, 7, dtype=torch.float64)
    window = ((pre - threshold) / WIDTH).abs() < 0.5
    assert 0 < window.double().mean() < 0.5
    of_f = torch.autograd.grad((f * upstream).sum(), (pre, threshold), retain_graph=True)
    torch.testing.assert_close(of_f[0], upstream * (pre > threshold))
    torch.testing.assert_close(of_f[1], -(threshold / WIDTH * window * upstream).sum(0))
    of_counts = torch.autograd.grad((counts * weight).sum(), (pre, threshold))
    torch.testing.assert_close(of_counts[1], -weight / WIDTH * window.sum(0))
    assert of_counts[0].abs().max() == 0


def test_a_wide_window_estimates_the_change_of_mean_l0(pre, threshold):
    """Of many tokens, the estimate is the slope of their number above θ."""
    many = torch.randn(400_000, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for at in (0.3, 1.0):
        where = torch.tensor([at], dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(jump(many, where, WIDTH)[1].sum() / len(many), where)
        density = torch.distributions.Normal(0, 1).log_prob(torch.tensor(at)).exp()
        assert slope.item() == pytest.approx(-density.item(), rel=0.03)


def test_its_term_is_the_squared_relative_distance_from_the_target():
    torch.manual_seed(0)
    sae = JumpReLUSAE(8, 32, l0=5, l0_coefficient=0.7)
    with torch.no_grad():
        sae.threshold.fill_(0.5)
    x = torch.randn(50, 8)
    attempt = sae.attempt(x, Firing(32))
    l0 = (sae.latents(x) > 0).sum(1).float().mean()
    assert set(attempt.terms) == {"l0"}
    assert attempt.terms["l0"].item() == pytest.approx(0.7 * (l0.item() / 5 - 1) ** 2, rel=1e-5)
    gradients = torch.autograd.grad(attempt.terms["l0"], (sae.threshold, sae.W_enc_rows), allow_unused=True)
    assert (gradients[0] <= 0).all() == (l0 > 5)
    assert gradients[1] is None or gradients[1].abs().max() == 0


def test_thresholds_do_not_become_negative():
    sae = JumpReLUSAE(8, 4)
    with torch.no_grad():
        sae.threshold.copy_(torch.tensor([-1.0, 0.0, 0.5, -0.01]))
    sae.after_step_()
    assert sae.threshold.tolist() == [0, 0, 0.5, 0]
