"""The NFM: pooling against brute force over all tuples, its switches, its gradient, dropout."""

import itertools
from itertools import combinations
from math import prod

import pytest
import torch
from torch.autograd import gradcheck

from sae_nfm.models.codes import Codes
from sae_nfm.models.residuals.nfm import REFERENCE_WIDTH
from small_models import make_nfm

D_SAE, D_OUT, D_EMBED, K = 10, 4, 3, 6


def machine(order=2, dropout=0.0, **settings):
    torch.manual_seed(0)
    nfm = make_nfm(D_SAE, D_OUT, order=order, d_embed=D_EMBED, dropout=dropout, **settings).double()
    for parameter in nfm.parameters():
        torch.nn.init.normal_(parameter)
    return nfm


def random_codes(*leading, k=K):
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(*leading, k, generator=generator, dtype=torch.float64).relu()
    return Codes(values, torch.rand(*leading, D_SAE, generator=generator).topk(k, dim=-1).indices)


def brute_force(vectors, degree):
    """Σ over all sets of `degree` vectors of their elementwise product."""
    return sum((prod(chosen) for chosen in combinations(vectors, degree)), torch.zeros_like(vectors[0]))


@pytest.mark.parametrize("order", [2, 3, 4])
def test_pooling_is_the_sum_over_all_tuples_of_active_latents(order):
    nfm, codes = machine(order), random_codes(5)
    pooled = nfm.pool(codes)
    assert pooled.shape == (5, (order - 1) * D_EMBED)
    for token, values, indices in zip(pooled, codes.values, codes.indices, strict=True):
        vectors = list(values.unsqueeze(1) * nfm.V[indices])
        expected = torch.cat([brute_force(vectors, degree) for degree in range(2, order + 1)])
        torch.testing.assert_close(token, expected)


def test_order_two_is_the_bi_interaction_of_the_paper():
    nfm, codes = machine(order=2), random_codes(5)
    vectors = codes.values.unsqueeze(-1) * nfm.V[codes.indices]
    expected = 0.5 * (vectors.sum(1).pow(2) - vectors.pow(2).sum(1))
    torch.testing.assert_close(nfm.pool(codes), expected)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_fewer_active_latents_than_the_degree_interact_not_at_all(order):
    nfm, codes = machine(order), random_codes(5)
    codes.values[:, order - 1 :] = 0.0  # order - 1 are left
    highest = nfm.pool(codes)[:, -D_EMBED:]
    torch.testing.assert_close(highest, torch.zeros_like(highest), atol=1e-12, rtol=0)


@pytest.mark.parametrize("mlp", [True, False])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_output_passes_gradcheck(order, mlp):
    nfm, codes = machine(order, mlp=mlp), random_codes(3)
    assert gradcheck(
        lambda values, *_: nfm(Codes(values, codes.indices)).total,
        (codes.values.abs().add(0.1).requires_grad_(), *nfm.parameters()),
    )


def test_output_is_a_linear_map_of_the_scaled_interactions():
    nfm, codes = machine(order=3), random_codes(2, 4)
    nfm.initialize_(codes)
    features = nfm.pool(codes) * nfm.pool_scale
    output = nfm(codes)
    torch.testing.assert_close(output.linear, codes.dense(D_SAE) @ nfm.W_lin + nfm.b)
    expected = features @ nfm.head.W_out * (REFERENCE_WIDTH / D_EMBED) + nfm.head.b_out
    torch.testing.assert_close(output.interaction, expected)
    torch.testing.assert_close(output.total, output.linear + output.interaction)
    assert output.total.shape == (2, 4, D_OUT)


def test_with_the_hidden_layer_a_relu_stands_between():
    nfm, codes = machine(order=3, mlp=True), random_codes(5)
    nfm.initialize_(codes)
    hidden = nfm.head.hidden(nfm.pool(codes) * nfm.pool_scale).relu()
    expected = hidden @ nfm.head.W_out * (REFERENCE_WIDTH / D_EMBED) + nfm.head.b_out
    torch.testing.assert_close(nfm(codes).interaction, expected)


def test_a_part_that_is_switched_off_is_exactly_zero_and_has_no_parameters():
    codes = random_codes(5)
    no_linear, no_interaction = machine(linear=False, bias=False), machine(interaction=False)
    assert no_linear(codes).linear.abs().max() == 0
    assert no_linear(codes).interaction.abs().max() > 0
    assert set(dict(no_linear.named_parameters())) == {"V", "head.W_out", "head.b_out"}
    assert no_interaction(codes).interaction.abs().max() == 0
    assert no_interaction(codes).linear.abs().max() > 0
    assert set(dict(no_interaction.named_parameters())) == {"W_lin", "b"}


def test_order_one_has_no_interaction():
    nfm = machine(order=1)
    assert not nfm.has_interaction
    assert nfm(random_codes(5)).interaction.abs().max() == 0
    assert set(dict(nfm.named_parameters())) == {"W_lin", "b"}


def test_the_bias_alone_is_the_same_vector_for_every_token():
    nfm = machine(linear=False, interaction=False)
    output = nfm(random_codes(5))
    assert set(dict(nfm.named_parameters())) == {"b"}
    assert torch.equal(output.total, nfm.b.expand(5, -1))
    assert output.interaction.abs().max() == 0


def test_fewer_latents_are_read_in_training_alone():
    nfm, codes = machine(fit_k=2), random_codes(5)
    strongest = codes.values.topk(2, dim=-1)
    kept = Codes(strongest.values, codes.indices.gather(-1, strongest.indices))
    everything, few = machine()(codes).total, machine()(kept).total
    torch.testing.assert_close(nfm.train()(codes).total, few)
    torch.testing.assert_close(nfm.eval()(codes).total, everything)
    torch.testing.assert_close(machine(fit_k=K + 1).train()(codes).total, everything)


STARTS = list(itertools.product((2, 3, 4), (8, 64, 300), (4, 32, 256), (1e-3, 1.0, 1e3)))


def codes_of(k, scale, tokens=2000, d_sae=512):
    generator = torch.Generator().manual_seed(3)
    values = scale * torch.rand(tokens, k, generator=generator)
    return Codes(values, torch.rand(tokens, d_sae, generator=generator).topk(k, dim=-1).indices)


@pytest.mark.parametrize(("order", "d_embed", "k", "scale"), STARTS)
def test_the_start_is_right_for_every_order_width_number_and_scale_of_codes(order, d_embed, k, scale):
    torch.manual_seed(0)
    nfm, codes = make_nfm(512, 16, order=order, d_embed=d_embed), codes_of(k, scale)
    nfm.initialize_(codes)
    assert nfm(codes).total.abs().max() == 0
    features = (nfm.pool(codes) * nfm.pool_scale).unflatten(-1, (order - 1, d_embed))
    deviations = features.var(0).mean(-1).sqrt()
    torch.testing.assert_close(deviations, 4.0 ** -torch.arange(order - 1.0), rtol=1e-3, atol=0)


@pytest.mark.parametrize("mlp", [True, False])
def test_training_is_the_same_whatever_the_scale_of_the_codes(mlp):
    def trained(scale):
        torch.manual_seed(0)
        nfm, codes = make_nfm(512, 16, order=3, mlp=mlp, linear=False), codes_of(8, 1.0)
        target = torch.randn(2000, 16, generator=torch.Generator().manual_seed(4))
        codes = Codes(codes.values * scale, codes.indices)
        nfm.initialize_(codes)
        optimizer = torch.optim.Adam(nfm.parameters(), lr=3e-3)
        for _ in range(20):
            optimizer.zero_grad()
            (nfm(codes).total - target).pow(2).mean().backward()
            optimizer.step()
        return nfm(codes).total.detach()

    one = trained(1.0)
    assert one.abs().mean() > 0.01
    torch.testing.assert_close(trained(2.0**10), one, rtol=1e-3, atol=1e-4)


def test_an_order_above_the_number_of_latents_adds_nothing():
    nfm, codes = make_nfm(512, 16, order=4), codes_of(2, 1.0)
    nfm.initialize_(codes)
    assert (nfm.pool_scale.view(3, -1)[1:] == 0).all()
    assert nfm.pool_scale[:8].isfinite().all()


def test_a_solved_linear_part_is_kept_while_interactions_are_trained():
    nfm = make_nfm(D_SAE, D_OUT)
    nfm.set_linear_(torch.ones(D_SAE, D_OUT), torch.full((D_OUT,), 2.0))
    codes = Codes(torch.ones(1, 3), torch.arange(3).unsqueeze(0))
    assert torch.equal(nfm(codes).linear, torch.full((1, D_OUT), 5.0))
    assert {name for name, p in nfm.named_parameters() if not p.requires_grad} == {"W_lin", "b"}


def test_dropout_acts_in_training_only_and_on_the_interaction_only():
    nfm, codes = machine(dropout=0.5), random_codes(50)
    nfm.train()
    torch.manual_seed(0)
    first, second = nfm(codes), nfm(codes)
    assert not torch.equal(first.interaction, second.interaction)
    assert torch.equal(first.linear, second.linear)
    nfm.eval()
    assert torch.equal(nfm(codes).interaction, nfm(codes).interaction)
    torch.testing.assert_close(nfm(codes).interaction, machine(dropout=0.0)(codes).interaction)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"linear": False, "bias": False, "interaction": False},
            ["linear", "bias", "interaction"],
        ),
        ({"linear": False, "bias": False, "order": 1}, ["linear", "order=1"]),
        ({"fit_k": 0}, ["fit_k=0"]),
        ({"order": 5}, ["order=5", "1, 2, 3, 4"]),
        ({"order": 0}, ["order=0", "1, 2, 3, 4"]),
        ({"d_embed": 0}, ["d_embed=0"]),
        ({"embed_std": 0}, ["embed_std=0"]),
        ({"dropout": 1.0}, ["dropout=1.0"]),
        ({"dropout": -0.1}, ["dropout=-0.1"]),
        ({"fit": "apart"}, ["fit=apart", "together, linear_then_interaction"]),
    ],
)
def test_settings_that_leave_nothing_to_train_or_are_out_of_range_are_named(settings, words):
    with pytest.raises(ValueError, match="allowed") as error:
        make_nfm(D_SAE, D_OUT, **settings)
    assert all(word in str(error.value) for word in words)
