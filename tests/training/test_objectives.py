"""The losses against hand-computed cases, and AuxK's gradient."""

import pytest
import torch

from sae_nfm.models.sae import TopKSAE
from sae_nfm.training.objectives import Reconstruction

D_IN, D_SAE, K = 6, 12, 2
NONE_DEAD = torch.zeros(D_SAE, dtype=torch.bool)


@pytest.fixture
def sae():
    torch.manual_seed(0)
    sae = TopKSAE(D_IN, D_SAE, K, "zero").double()
    torch.nn.init.normal_(sae.b_dec)
    return sae


@pytest.fixture
def x():
    return 3 + torch.randn(15, D_IN, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_fvu_is_the_error_over_the_variance_about_the_mean():
    """Tokens (10, 0) and (12, 0) vary by 1 + 1 about their mean, of which errors of 0.5 leave 0.25 + 0.25."""
    x = torch.tensor([[10.0, 0.0], [12.0, 0.0]])
    reconstruction = torch.tensor([[10.5, 0.0], [11.5, 0.0]])
    loss = Reconstruction(None, 0.0).sae_loss(
        TopKSAE(2, 4, 1, "zero"), x, reconstruction, torch.zeros(4).bool()
    )
    assert loss.fvu.item() == pytest.approx(0.25)
    assert loss.total.item() == pytest.approx(0.25)


def test_the_mean_as_reconstruction_leaves_all_the_variance(sae, x):
    mean = x.mean(0, keepdim=True).expand_as(x)
    assert Reconstruction(None, 0.0).sae_loss(sae, x, mean, NONE_DEAD).fvu.item() == pytest.approx(1)


@pytest.mark.parametrize(("auxk", "taken"), [(2, 2), (None, D_IN // 2), (100, 4)])
def test_auxk_is_what_the_dead_latents_leave_of_the_residual(sae, x, auxk, taken):
    dead = torch.arange(D_SAE) % 3 == 0
    reconstruction = sae(x)
    residual = x - reconstruction
    pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    pre = pre.masked_fill(~dead, -torch.inf)
    codes = torch.zeros_like(pre).scatter(1, *reversed(pre.topk(taken, dim=1)))
    expected = (residual - codes.relu() @ sae.W_dec).pow(2).sum() / residual.pow(2).sum()

    loss = Reconstruction(auxk, 0.5).sae_loss(sae, x, reconstruction, dead)

    torch.testing.assert_close(loss.auxk, expected)
    torch.testing.assert_close(loss.total, loss.fvu + 0.5 * expected)


def test_auxk_reaches_the_dead_latents_and_no_others(sae, x):
    dead = torch.arange(D_SAE) < 4
    loss = Reconstruction(2, 1.0).sae_loss(sae, x, sae(x), dead)
    for gradient in torch.autograd.grad(loss.auxk, (sae.W_enc_rows, sae.b_enc, sae.W_dec)):
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
    auxk = (
        Reconstruction(1, 1.0).sae_loss(sae, torch.cat([x, -x]), torch.cat([reconstruction, -x]), dead).auxk
    )
    # the residual's energy is 1; latent 1 fires 0.75 on x and is rectified to 0 on −x
    assert auxk.item() == pytest.approx(0.0625)
    auxk.backward()
    torch.testing.assert_close(sae.W_enc_rows.grad[1], -2 * 0.25 * x[0])
    assert sae.b_enc.grad.tolist() == pytest.approx([0, -0.5, 0])


@pytest.mark.parametrize(("coefficient", "dead"), [(0.0, ~NONE_DEAD), (1.0, NONE_DEAD)])
def test_auxk_is_exactly_zero_where_it_is_off_or_none_is_dead(sae, x, coefficient, dead):
    loss = Reconstruction(None, coefficient).sae_loss(sae, x, sae(x), dead)
    assert loss.auxk.item() == 0
    assert loss.total.item() == loss.fvu.item()


def test_auxk_of_a_perfect_reconstruction_is_no_nan(sae, x):
    loss = Reconstruction(None, 1.0).sae_loss(sae, x, x.clone(), ~NONE_DEAD)
    assert loss.total.isfinite()


def test_residual_loss_is_the_share_of_energy_left():
    residual = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    predicted = torch.tensor([[3.0, 1.0], [0.0, 2.0]])
    objective = Reconstruction(None, 0.0)
    assert objective.residual_loss(residual, predicted).item() == pytest.approx((1 + 4) / 25)
    assert objective.residual_loss(residual, torch.zeros_like(residual)).item() == pytest.approx(1)
