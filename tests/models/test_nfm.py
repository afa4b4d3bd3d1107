"""The NFM: pooling against brute force over all tuples, its switches, its gradient, dropout."""

from itertools import combinations
from math import prod

import pytest
import torch
from torch.autograd import gradcheck

from sae_nfm.models.codes import Codes
from sae_nfm.models.nfm import elementary_symmetric
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


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_symmetric_polynomials_of_every_order_from_power_sums(order):
    numbers = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    symmetric = elementary_symmetric([(numbers**j).sum(0) for j in range(1, order + 1)])
    assert len(symmetric) == order
    for degree, value in enumerate(symmetric, start=1):
        torch.testing.assert_close(value, brute_force(list(numbers), degree))


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


def test_pooling_in_float32_stands_a_latent_that_outshines_the_others():
    """Newton's identities subtract powers of the largest term; the pooled sum must survive that."""
    nfm = machine(order=4)
    codes = random_codes(50)
    codes.values.abs_().add_(0.1)
    codes.values[:, 0] = 30.0
    exact = nfm.pool(codes).view(50, 3, D_EMBED)
    single = nfm.float().pool(Codes(codes.values.float(), codes.indices)).view(50, 3, D_EMBED)
    error = (single - exact).norm(dim=(0, 2)) / exact.norm(dim=(0, 2))
    assert error.max() < 1e-2, f"relative errors of e_2, e_3, e_4: {error.tolist()}"


@pytest.mark.parametrize("mlp", [True, False])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_output_passes_gradcheck(order, mlp):
    nfm, codes = machine(order, mlp=mlp), random_codes(3)
    assert gradcheck(
        lambda values, *_: nfm(Codes(values, codes.indices)).total,
        (codes.values.abs().add(0.1).requires_grad_(), *nfm.parameters()),
    )


def test_output_is_the_published_form():
    nfm, codes = machine(order=3), random_codes(2, 4)
    hidden, out = nfm.mlp[1], nfm.mlp[3]
    output = nfm(codes)
    torch.testing.assert_close(output.linear, codes.dense(D_SAE) @ nfm.W_lin + nfm.b)
    torch.testing.assert_close(output.interaction, out(hidden(nfm.pool(codes)).relu()))
    torch.testing.assert_close(output.total, output.linear + output.interaction)
    assert output.total.shape == (2, 4, D_OUT)


def test_without_the_hidden_layer_the_interaction_is_one_linear_map():
    nfm, codes = machine(order=3, mlp=False), random_codes(5)
    torch.testing.assert_close(nfm(codes).interaction, nfm.mlp[1](nfm.pool(codes)))
    assert sum(isinstance(part, torch.nn.Linear) for part in nfm.mlp) == 1


def test_a_part_that_is_switched_off_is_exactly_zero_and_has_no_parameters():
    codes = random_codes(5)
    no_linear, no_interaction = machine(linear=False, bias=False), machine(interaction=False)
    assert no_linear(codes).linear.abs().max() == 0
    assert no_linear(codes).interaction.abs().max() > 0
    assert set(dict(no_linear.named_parameters())) == {
        "V", "mlp.1.weight", "mlp.1.bias", "mlp.3.weight", "mlp.3.bias"
    }  # fmt: skip
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


def test_the_linear_part_starts_at_zero():
    nfm = make_nfm(D_SAE, D_OUT, order=1).double()
    assert nfm(random_codes(5)).total.abs().max() == 0


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
            ["nfm.linear", "nfm.bias", "nfm.interaction"],
        ),
        ({"linear": False, "bias": False, "order": 1}, ["nfm.linear", "nfm.order=1"]),
        ({"fit_k": 0}, ["nfm.fit_k=0"]),
        ({"order": 5}, ["nfm.order=5", "1, 2, 3, 4"]),
        ({"order": 0}, ["nfm.order=0", "1, 2, 3, 4"]),
        ({"d_embed": 0}, ["nfm.d_embed=0"]),
        ({"dropout": 1.0}, ["nfm.dropout=1.0"]),
        ({"dropout": -0.1}, ["nfm.dropout=-0.1"]),
        ({"fit": "apart"}, ["nfm.fit=apart", "together, linear_then_interaction"]),
    ],
)
def test_settings_that_leave_nothing_to_train_or_are_out_of_range_are_named(settings, words):
    with pytest.raises(ValueError, match="allowed") as error:
        make_nfm(D_SAE, D_OUT, **settings)
    assert all(word in str(error.value) for word in words)
