import pytest
import torch

from sae_nfm.models import least_squares
from sae_nfm.models.codes import Codes
from sae_nfm.models.least_squares import NormalEquations
from sae_nfm.models.residuals.linear import AffineMap, DecoderRefit, OutputBias
from sae_nfm.models.residuals.mlp import CodesMLP
from small_models import make_nfm

D_IN, D_SAE, K, TOKENS = 6, 40, 3, 600


def sample():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(TOKENS, D_IN, generator=generator)
    indices = torch.stack([torch.randperm(D_SAE - 1, generator=generator)[:K] for _ in range(TOKENS)])
    codes = Codes(torch.rand(TOKENS, K, generator=generator), indices)  # the last latent is dead
    residual = x @ torch.randn(D_IN, D_IN, generator=generator) + codes.dense(D_SAE)[:, :D_IN] + 2
    return x, codes, residual


def equations_of(control, x, codes, residual, parts=1):
    control.build(D_IN, D_SAE)
    equations = NormalEquations(control.num_features(D_IN, D_SAE), D_IN, control.has_bias, x.device)
    for rows in torch.arange(len(x)).chunk(parts):
        chosen = Codes(codes.values[rows], codes.indices[rows])
        equations.add(control.features(x[rows], chosen), residual[rows])
    return equations


@pytest.mark.parametrize(
    ("kind", "bias"),
    [(OutputBias, True), (DecoderRefit, True), (DecoderRefit, False), (AffineMap, True), (AffineMap, False)],
)
def test_a_linear_control_is_the_least_squares_solution(kind, bias):
    x, codes, residual = sample()
    control = kind(bias=bias)
    control.set_(*equations_of(control, x, codes, residual, parts=3).solve(ridge=1e-9))
    features = {OutputBias: torch.zeros(TOKENS, 0), DecoderRefit: codes.dense(D_SAE), AffineMap: x}[kind]
    constant = torch.ones(TOKENS, 1 if bias else 0)
    design = torch.cat([features, constant], 1).double()
    expected = design @ (torch.linalg.pinv(design) @ residual.double())
    torch.testing.assert_close(control.residual(x, codes).double(), expected, rtol=1e-3, atol=1e-3)


def test_the_ridge_shrinks_the_weights_and_spares_the_bias():
    x, codes, residual = sample()
    control = DecoderRefit()
    equations = equations_of(control, x, codes, residual)
    (small, _), (large, bias) = equations.solve(1e-6), equations.solve(1e6)
    assert large.norm() < 1e-3 * small.norm()
    torch.testing.assert_close(bias.float(), residual.mean(0), rtol=1e-3, atol=1e-3)


def test_a_latent_that_never_fires_gets_no_weight():
    x, codes, residual = sample()
    control = DecoderRefit()
    control.set_(*equations_of(control, x, codes, residual).solve(1e-6))
    assert control.weight[-1].abs().max() < 1e-6


def test_a_refit_is_solved_on_as_many_latents_as_it_is_told():
    x, codes, residual = sample()
    one = DecoderRefit(fit_k=1)
    strongest = codes.strongest(1)
    (found, _), (expected, _) = (
        equations_of(DecoderRefit(fit_k=k), x, c, residual).solve(1e-6)
        for k, c in ((1, codes), (None, strongest))
    )
    torch.testing.assert_close(found, expected)
    one.build(D_IN, D_SAE)
    one.set_(found, torch.zeros(D_IN))
    torch.testing.assert_close(one.residual(x, codes), codes.dense(D_SAE) @ one.weight, rtol=1e-4, atol=1e-4)


def test_scattered_and_dense_products_agree():
    x, codes, residual = sample()
    many = Codes(torch.rand(TOKENS, 30), torch.stack([torch.randperm(D_SAE)[:30] for _ in range(TOKENS)]))
    for chosen in (codes, many):  # k = 3 of 40 takes one path, k = 30 of 40 the other
        equations = equations_of(DecoderRefit(), x, chosen, residual)
        design = torch.cat([chosen.dense(D_SAE), torch.ones(TOKENS, 1)], 1).double()
        torch.testing.assert_close(equations.gram, design.T @ design)
        torch.testing.assert_close(equations.cross, design.T @ residual.double(), rtol=1e-5, atol=1e-5)


def test_tokens_are_added_in_chunks_that_fit(monkeypatch):
    x, codes, residual = sample()
    whole = equations_of(DecoderRefit(), x, codes, residual)
    monkeypatch.setattr(least_squares, "_ENTRIES_AT_ONCE", 100)
    chunked = equations_of(DecoderRefit(), x, codes, residual)
    torch.testing.assert_close(chunked.gram, whole.gram)
    torch.testing.assert_close(chunked.cross, whole.cross, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ridge", [1e-6, 1e-2])
def test_where_a_factor_finds_no_room_conjugate_gradients_find_the_same(monkeypatch, ridge):
    x, codes, residual = sample()
    codes = codes._replace(values=codes.values * torch.tensor([1.0, 30.0, 0.01]))  # of unequal scale
    equations = equations_of(DecoderRefit(), x, codes, residual)
    weights, bias = equations.solve(ridge)
    monkeypatch.setattr(least_squares, "free_bytes", lambda device: 0)
    assert torch.equal(equations.solve(ridge)[0], weights)  # all ridges are solved in one way
    monkeypatch.setattr(torch.linalg, "cholesky", None)
    del equations._has_room
    iterated_weights, iterated_bias = equations.solve(ridge)
    design = codes.dense(D_SAE).double()
    torch.testing.assert_close(design @ iterated_weights, design @ weights, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(iterated_bias, bias, rtol=1e-3, atol=1e-3)


def test_equations_that_do_not_fit_are_refused_before_anything_is_summed(monkeypatch):
    monkeypatch.setattr(least_squares, "free_bytes", lambda device: 8 * 1000**2)
    NormalEquations(999, D_IN, True, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"sae\.d_sae=1000: .* take 0\.0 GB on cpu, .* up to 1000 latents"):
        NormalEquations(1000, D_IN, True, torch.device("cpu"))


@pytest.mark.parametrize("support", [True, False])
def test_the_mlp_is_its_formula_and_starts_at_no_correction(support):
    _, codes, _ = sample()
    torch.manual_seed(0)
    mlp = CodesMLP(D_SAE, D_IN, 16, support)
    mlp.initialize_(codes)
    assert mlp(codes).total.abs().max() == 0
    for parameter in (mlp.W_2, mlp.b_1, mlp.b_2):
        torch.nn.init.normal_(parameter, std=0.5)
    f, active = codes.dense(D_SAE), (codes.dense(D_SAE) > 0).float()
    hidden = mlp.code_scale * f @ mlp.W_1 + mlp.b_1
    if support:
        hidden = hidden + mlp.support_scale * active @ mlp.W_support
    assert 0.5 < hidden.std() < 2
    expected = 16 * torch.nn.functional.gelu(hidden) @ mlp.W_2 + mlp.b_2
    torch.testing.assert_close(mlp(codes).interaction, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("support", [True, False])
def test_the_mlp_has_the_nfms_number_of_parameters(support):
    nfm = make_nfm(512, 32, order=2, d_embed=16)
    size = sum(parameter.numel() for parameter in nfm.parameters())
    mlp = CodesMLP(512, 32, CodesMLP.hidden_for(size, 512, 32, support), support)
    each = 512 * (1 + support) + 32 + 1
    assert abs(sum(parameter.numel() for parameter in mlp.parameters()) - size) <= each / 2


def test_the_size_of_an_mlp_counts_its_linear_part_and_all_biases():
    for support in (True, False):
        for hidden in (1, 2, 7):
            mlp = CodesMLP(50, 8, hidden, support)
            size = sum(parameter.numel() for parameter in mlp.parameters())
            assert CodesMLP.hidden_for(size, 50, 8, support) == hidden
    assert CodesMLP.hidden_for(0, 50, 8, False) == 1


def test_a_latent_whose_value_is_zero_is_not_active():
    mlp = CodesMLP(D_SAE, D_IN, 16, True)
    torch.nn.init.normal_(mlp.W_2)
    codes = Codes(torch.tensor([[1.0, 0.0]]), torch.tensor([[3, 5]]))
    alone = Codes(torch.tensor([[1.0]]), torch.tensor([[3]]))
    torch.testing.assert_close(mlp(codes).total, mlp(alone).total)


@pytest.mark.parametrize("kind", [OutputBias, DecoderRefit, AffineMap])
def test_what_is_solved_is_not_trained(kind):
    control = kind()
    control.build(D_IN, D_SAE)
    assert not any(parameter.requires_grad for parameter in control.parameters())


def test_the_ridge_is_relative_to_the_features_squared_norms():
    """So that features of another scale are shrunk as much."""
    x, codes, residual = sample()
    larger = codes._replace(values=codes.values * 100)
    (small, _), (large, _) = (
        equations_of(DecoderRefit(), x, c, residual).solve(1e-2) for c in (codes, larger)
    )
    torch.testing.assert_close(large * 100, small, rtol=1e-4, atol=1e-6)


def test_half_a_hidden_unit_decides_between_two_sizes():
    sizes = [sum(p.numel() for p in CodesMLP(9, 8, hidden, False).parameters()) for hidden in (3, 4)]
    middle = sum(sizes) // 2
    assert [CodesMLP.hidden_for(middle + off, 9, 8, False) for off in (-2, 2)] == [3, 4]


def test_an_affine_map_takes_activations_of_double_precision():
    x, codes, _ = sample()
    control = AffineMap()
    control.build(D_IN, D_SAE)
    torch.nn.init.normal_(control.weight)
    found = control.residual(x.double(), codes)
    torch.testing.assert_close(found, x.double() @ control.weight.double() + control.bias.double())
