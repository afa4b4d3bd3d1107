"""The TopK SAE: its form, its constraint on the decoder, AuxK, and its initialisation."""

import copy

import pytest
import torch

from sae_nfm.models.saes.base import geometric_median
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
    return torch.randn(20, D_IN, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_forward_is_the_published_form(sae, x):
    pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    kept = torch.zeros_like(pre).scatter(-1, pre.topk(K, dim=-1).indices, 1.0)
    expected = (pre * kept).relu() @ sae.W_dec + sae.b_dec
    torch.testing.assert_close(sae(x), expected)
    torch.testing.assert_close(sae.decode(sae.encode(x)), expected)


def test_blocks_are_encoded_as_their_tokens_are(sae, x):
    blocks = x.view(4, 5, D_IN)
    assert sae.encode(blocks).values.shape == (4, 5, K)
    torch.testing.assert_close(sae(blocks).view(20, D_IN), sae(x))


def test_w_enc_has_the_usual_orientation_and_starts_as_the_decoder_transposed():
    sae = TopKSAE(D_IN, D_SAE, K, "zero")
    assert sae.W_enc.shape == (D_IN, D_SAE)
    assert torch.equal(sae.W_enc.t(), sae.W_dec)


def test_decoder_rows_start_and_are_brought_back_to_unit_norm(sae):
    ones = torch.ones(D_SAE, dtype=torch.float64)
    start = TopKSAE(D_IN, D_SAE, K, "zero").W_dec.norm(dim=1)
    torch.testing.assert_close(start, torch.ones(D_SAE))
    directions = sae.W_dec.detach() / sae.W_dec.detach().norm(dim=1, keepdim=True)
    with torch.no_grad():
        sae.W_dec.mul_(torch.linspace(0.1, 9, D_SAE, dtype=torch.float64).unsqueeze(1))
    sae.normalize_decoder_()
    torch.testing.assert_close(sae.W_dec.norm(dim=1), ones)
    torch.testing.assert_close(sae.W_dec.detach(), directions)


def test_the_projected_gradient_is_orthogonal_to_its_rows_and_keeps_the_rest(sae, x):
    sae.normalize_decoder_()
    sae(x).pow(3).sum().backward()
    before = sae.W_dec.grad.clone()
    sae.project_decoder_gradient_()
    along = (sae.W_dec.grad * sae.W_dec).sum(1)
    torch.testing.assert_close(along, torch.zeros_like(along), atol=1e-10, rtol=0)
    assert (before * sae.W_dec).sum(1).abs().max() > 1
    removed = before - sae.W_dec.grad
    torch.testing.assert_close(removed, (before * sae.W_dec).sum(1, keepdim=True) * sae.W_dec.detach())


def test_projecting_without_a_gradient_does_nothing(sae):
    sae.project_decoder_gradient_()
    assert sae.W_dec.grad is None


def test_the_geometric_median_of_four_corners_is_where_the_diagonals_cross():
    corners = torch.tensor([[0.0, 0.0], [4.0, 4.0], [0.0, 2.0], [2.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(
        geometric_median(corners, iterations=1000, tolerance=1e-12),
        torch.ones(2, dtype=torch.float64), atol=1e-6, rtol=0,
    )  # fmt: skip


def test_the_geometric_median_is_near_the_crowd_whatever_an_outlier_does():
    crowd = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    points = torch.cat([crowd, torch.full((1, 8), 1e6)])
    assert points.mean(0).norm() > 1e4
    assert (geometric_median(points) - geometric_median(crowd)).norm() < 0.1


def test_initialize_puts_b_dec_at_the_centre_asked_for():
    sample = torch.randn(100, D_IN, generator=torch.Generator().manual_seed(0)) ** 2
    centres = {
        "geometric_median": geometric_median(sample),
        "mean": sample.mean(0),
        "zero": torch.zeros(D_IN),
    }
    for name, centre in centres.items():
        sae = TopKSAE(D_IN, D_SAE, K, name)
        sae.initialize_(sample)
        torch.testing.assert_close(sae.b_dec.detach(), centre)
    assert (centres["geometric_median"] - centres["mean"]).norm() > 0.1


def test_initialize_scales_the_encoder_so_that_no_other_scale_reconstructs_better():
    sample = torch.randn(500, D_IN, generator=torch.Generator().manual_seed(0))
    sae = TopKSAE(D_IN, D_SAE, K, "mean")
    sae.initialize_(sample)
    error = {}
    for factor in (0.8, 1.0, 1.25):
        scaled = copy.deepcopy(sae)
        scaled.W_enc_rows.data.mul_(factor)
        error[factor] = (sample - scaled(sample)).pow(2).sum().item()
    assert error[1.0] < min(error[0.8], error[1.25])


@pytest.mark.parametrize(
    ("d_sae", "k", "b_dec_init", "words"),
    [
        (8, 9, "zero", ["k=9", "1 to d_sae=8"]),
        (8, 0, "zero", ["k=0", "whole numbers from 1"]),
        (0, 1, "zero", ["d_sae=0", "whole numbers from 1"]),
        (8, 2, "middle", ["b_dec_init=middle", "geometric_median", "mean", "zero"]),
    ],
)
def test_a_setting_out_of_range_is_named_with_what_is_allowed(d_sae, k, b_dec_init, words):
    with pytest.raises(ValueError, match="allowed") as error:
        TopKSAE(D_IN, d_sae, k, b_dec_init)
    assert all(word in str(error.value) for word in words)


def test_the_geometric_median_has_least_summed_distance():
    points = torch.randn(200, 3, generator=torch.Generator().manual_seed(2)) ** 3
    found = geometric_median(points)

    def summed(point):
        return (points - point).norm(dim=1).sum().item()

    for step in 0.02 * torch.cat([torch.eye(3), -torch.eye(3)]):
        assert summed(found) < summed(found + step)
