"""The squared error as a share of what there is to explain."""

import pytest
import torch

from sae_nfm.training.objectives.reconstruction import Reconstruction


def test_fvu_is_the_error_over_the_variance_about_the_mean():
    """Tokens (10, 0) and (12, 0) vary by 1 + 1 about their mean, of which errors of 0.5 leave 0.25 + 0.25."""
    x = torch.tensor([[10.0, 0.0], [12.0, 0.0]])
    reconstruction = torch.tensor([[10.5, 0.0], [11.5, 0.0]])
    assert Reconstruction().of_activation(x, reconstruction).item() == pytest.approx(0.25)


def test_the_mean_as_reconstruction_leaves_all_the_variance():
    x = 3 + torch.randn(15, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mean = x.mean(0, keepdim=True).expand_as(x)
    assert Reconstruction().of_activation(x, mean).item() == pytest.approx(1)


def test_residual_loss_is_the_share_of_energy_left():
    residual = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    predicted = torch.tensor([[3.0, 1.0], [0.0, 2.0]])
    objective = Reconstruction()
    assert objective.of_residual(residual, predicted).item() == pytest.approx((1 + 4) / 25)
    assert objective.of_residual(residual, torch.zeros_like(residual)).item() == pytest.approx(1)
