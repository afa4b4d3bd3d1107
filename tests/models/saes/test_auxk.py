"""AuxK: what the dead latents' attempt at the residual is, and where its gradient goes."""

import pytest
import torch

from sae_nfm.models.saes.auxk import auxk_loss, reconstruct_with
from sae_nfm.models.saes.firing import Firing
from sae_nfm.models.saes.topk import TopKSAE

D_IN, D_SAE, K = 6, 16, 3


@pytest.fixture
def sae():
    torch.manual_seed(0)
    sae = TopKSAE(D_IN, D_SAE, K, "zero").double()
    for bias in (sae.b_enc, sae.b_dec):
        torch.nn.init.normal_(bias, std=0.5)
    return sae


@pytest.fixture
def x():
    return 3 + torch.randn(15, D_IN, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def auxiliary(sae, x, dead, k):
    """AuxK's prediction written out: the k largest pre-activations among the dead, no decoder bias."""
    pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    pre = pre.masked_fill(~dead, -torch.inf)
    indices = pre.topk(k, dim=-1).indices
    kept = torch.zeros_like(pre).scatter(-1, indices, 1.0).bool()
    return torch.where(kept, pre, 0.0).relu() @ sae.W_dec


@pytest.fixture
def dead():
    return torch.arange(D_SAE) % 3 == 0


def test_reconstruct_with_is_the_sum_over_the_given_latents_without_b_dec(sae, x, dead):
    torch.testing.assert_close(reconstruct_with(sae, x, dead, 2), auxiliary(sae, x, dead, 2))


def test_reconstruct_with_takes_all_of_fewer_latents_than_k(sae, x, dead):
    expected = auxiliary(sae, x, dead, int(dead.sum()))
    torch.testing.assert_close(reconstruct_with(sae, x, dead, 100), expected)


def test_b_dec_is_not_added_a_second_time(sae, x, dead):
    """Where all latents are rectified to 0 the prediction is 0, and not the decoder's bias."""
    with torch.no_grad():
        sae.b_enc.fill_(-1000.0)
    assert sae.b_dec.abs().min() > 0
    assert reconstruct_with(sae, x, dead, 2).abs().max() == 0


def test_the_gradient_of_reconstruct_with_reaches_encoder_and_decoder_of_the_given_latents_only(sae, x, dead):
    parameters = (sae.W_enc_rows, sae.b_enc, sae.W_dec, sae.b_dec)
    target = torch.randn(15, D_IN, dtype=torch.float64)
    ours = torch.autograd.grad((reconstruct_with(sae, x, dead, 2) - target).pow(2).sum(), parameters)
    theirs = torch.autograd.grad((auxiliary(sae, x, dead, 2) - target).pow(2).sum(), parameters)
    for gradient, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(gradient, expected)
    for gradient in ours[:3]:
        by_latent = gradient.abs().reshape(D_SAE, -1).sum(1)
        assert by_latent[~dead].max() == 0
        assert by_latent[dead].max() > 0


@pytest.mark.parametrize("k", [2, D_IN // 2, 100])
def test_auxk_is_what_the_dead_latents_leave_of_the_residual(sae, x, dead, k):
    reconstruction = sae(x)
    residual = x - reconstruction
    left = residual - auxiliary(sae, x, dead, min(k, int(dead.sum())))
    expected = left.pow(2).sum() / residual.pow(2).sum()
    torch.testing.assert_close(auxk_loss(sae, x, reconstruction, dead, k), expected)


def test_auxk_reaches_the_dead_latents_and_no_others(sae, x):
    dead = torch.arange(D_SAE) < 4
    loss = auxk_loss(sae, x, sae(x), dead, 2)
    for gradient in torch.autograd.grad(loss, (sae.W_enc_rows, sae.b_enc, sae.W_dec)):
        by_latent = gradient.abs().reshape(D_SAE, -1).sum(1)
        assert by_latent[~dead].max() == 0
        assert by_latent[dead].max() > 0


def test_the_gradient_of_a_dead_encoder_row_points_to_the_residual():
    """One dead latent along a residual of 1: (1 − a)² has slope −2(1 − a), times x for its encoder row."""
    sae = TopKSAE(2, 3, 1, "zero").double()
    with torch.no_grad():
        sae.W_dec.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
        sae.W_enc_rows.copy_(torch.tensor([[1.0, 0.0], [0.25, 0.25], [-1.0, 0.0]]))
    x = torch.tensor([[2.0, 1.0]], dtype=torch.float64)
    reconstruction = sae(x)
    assert reconstruction.tolist() == [[2.0, 0.0]]
    dead = torch.tensor([False, True, False])
    auxk = auxk_loss(sae, torch.cat([x, -x]), torch.cat([reconstruction, -x]), dead, 1)
    # the residual's energy is 1; latent 1 fires 0.75 on x and is rectified to 0 on −x
    assert auxk.item() == pytest.approx(0.0625)
    auxk.backward()
    torch.testing.assert_close(sae.W_enc_rows.grad[1], -2 * 0.25 * x[0])
    assert sae.b_enc.grad.tolist() == pytest.approx([0, -0.5, 0])


def test_auxk_of_a_perfect_reconstruction_is_no_nan(sae, x, dead):
    assert auxk_loss(sae, x, x.clone(), dead, 2).isfinite()


@pytest.mark.parametrize(("coefficient", "tokens"), [(0.0, 100), (1.0, 0)])
def test_there_is_no_term_where_it_is_off_or_none_is_dead(x, coefficient, tokens):
    sae = TopKSAE(D_IN, D_SAE, K, "zero", None, coefficient, dead_after=10).double()
    firing = Firing(D_SAE)
    firing.count(torch.zeros(D_SAE, dtype=torch.bool), torch.tensor(1.0), tokens)
    assert sae.attempt(x, firing).terms == {}


@pytest.mark.parametrize(("auxk", "k"), [(2, 2), (None, D_IN // 2)])
def test_a_topk_sae_adds_it_by_its_weight(sae, x, auxk, k):
    sae.auxk, sae.auxk_coefficient, sae.dead_after = auxk, 0.5, 10
    firing = Firing(D_SAE)
    firing.count(torch.arange(D_SAE) % 3 > 0, torch.tensor(1.0), 11)
    attempt = sae.attempt(x, firing)
    expected = auxk_loss(sae, x, sae(x), torch.arange(D_SAE) % 3 == 0, k)
    torch.testing.assert_close(attempt.terms, {"auxk": 0.5 * expected})
    torch.testing.assert_close(attempt.reconstruction, sae(x))
    codes = sae.encode(x)
    assert attempt.fired.tolist() == codes.dense(D_SAE).gt(0).any(0).tolist()
    assert attempt.l0.item() == pytest.approx((codes.values > 0).sum(1).double().mean().item())
