import pytest
import torch

from sae_nfm.models.codes import Codes
from sae_nfm.models.controls import AffineMap, CodesMLP, DecoderRefit, NormalEquations, OutputBias
from small_models import make_nfm

D_IN, D_SAE, K, TOKENS = 6, 40, 3, 600


def sample():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(TOKENS, D_IN, generator=generator)
    indices = torch.stack([torch.randperm(D_SAE - 1, generator=generator)[:K] for _ in range(TOKENS)])
    codes = Codes(torch.rand(TOKENS, K, generator=generator), indices)  # the last latent is dead
    residual = x @ torch.randn(D_IN, D_IN, generator=generator) + codes.dense(D_SAE)[:, :D_IN] + 2
    return x, codes, residual


@pytest.mark.parametrize(
    "control", [OutputBias(), DecoderRefit(), AffineMap()], ids=lambda c: type(c).__name__
)
def test_a_linear_control_is_the_least_squares_solution(control):
    x, codes, residual = sample()
    control.build(D_IN, D_SAE, 0)
    equations = NormalEquations(control)
    for part in range(3):
        rows = slice(part * 200, (part + 1) * 200)
        equations.add(x[rows], Codes(codes.values[rows], codes.indices[rows]), residual[rows])
    equations.solve_(ridge=1e-9)
    features = {
        OutputBias: torch.zeros(TOKENS, 0),
        DecoderRefit: codes.dense(D_SAE),
        AffineMap: x,
    }[type(control)]
    design = torch.cat([features, torch.ones(TOKENS, 1)], 1).double()
    expected = design @ (torch.linalg.pinv(design) @ residual.double())
    torch.testing.assert_close(control.residual(x, codes).double(), expected, rtol=1e-3, atol=1e-3)


def test_a_latent_that_never_fires_gets_no_weight():
    x, codes, residual = sample()
    control = DecoderRefit()
    control.build(D_IN, D_SAE, 0)
    equations = NormalEquations(control)
    equations.add(x, codes, residual)
    equations.solve_()
    assert control.weight[-1].abs().max() < 1e-6


def test_scattered_and_dense_products_agree():
    x, codes, residual = sample()
    many = Codes(torch.rand(TOKENS, 30), torch.stack([torch.randperm(D_SAE)[:30] for _ in range(TOKENS)]))
    control = DecoderRefit()
    control.build(D_IN, D_SAE, 0)
    for chosen in (codes, many):  # k = 3 of 40 takes one path, k = 30 of 40 the other
        equations = NormalEquations(control)
        equations.add(x, chosen, residual)
        design = torch.cat([chosen.dense(D_SAE), torch.ones(TOKENS, 1)], 1).double()
        torch.testing.assert_close(equations.gram, design.T @ design)
        torch.testing.assert_close(equations.cross, design.T @ residual.double(), rtol=1e-5, atol=1e-5)


def test_the_mlp_has_the_nfms_number_of_parameters():
    nfm = make_nfm(512, 32, order=2, d_embed=16, dropout=0.0)
    size = sum(parameter.numel() for parameter in nfm.parameters())
    mlp = CodesMLP()
    mlp.build(32, 512, size)
    assert abs(sum(parameter.numel() for parameter in mlp.parameters()) - size) <= 512 + 32 + 1
