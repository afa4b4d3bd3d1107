"""Active latents without padding: what is selected, and the sums over them, against dense autograd."""

import pytest
import torch
from torch.autograd import gradcheck

from sae_nfm.models.entries import encode_above, encode_largest, sums, totals

D_IN, D_SAE, TOKENS, NUMBER = 5, 12, 7, 20


@pytest.fixture
def encoder():
    generator = torch.Generator().manual_seed(0)
    shapes = ((TOKENS, D_IN), (D_SAE, D_IN), (D_SAE,))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


def dense(entries):
    out = entries.values.new_zeros(TOKENS, D_SAE)
    return out.index_put((entries.tokens, entries.latents), entries.values)


def largest(x, weight, bias, number):
    pre = (x @ weight.t() + bias).relu()
    return torch.where(pre >= pre.flatten().topk(number).values[-1], pre, 0)


def test_the_largest_of_the_batch_are_selected_in_the_order_of_tokens_and_latents(encoder):
    entries = encode_largest(*encoder, NUMBER)
    torch.testing.assert_close(dense(entries), largest(*encoder, NUMBER))
    assert len(entries.values) == NUMBER
    places = entries.tokens * D_SAE + entries.latents
    assert places.tolist() == sorted(set(places.tolist()))
    assert len(set(entries.tokens.bincount(minlength=TOKENS).tolist())) > 1


@pytest.mark.parametrize("guess", [-1.0, 0.5, 1.0, 100.0])
def test_a_guess_changes_nothing(encoder, guess):
    pre = encoder[0] @ encoder[1].t() + encoder[2]
    assert (pre > 1.0).sum() > NUMBER > (pre > 100.0).sum()
    for ours, theirs in zip(
        encode_largest(*encoder, NUMBER, guess), encode_largest(*encoder, NUMBER), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_only_what_is_above_0_is_selected(encoder):
    with torch.no_grad():
        encoder[2].fill_(-3.0)
    entries = encode_largest(*encoder, NUMBER)
    assert 0 < len(entries.values) < NUMBER
    torch.testing.assert_close(dense(entries), (encoder[0] @ encoder[1].t() - 3).relu())
    with torch.no_grad():
        encoder[2].fill_(-100.0)
    nothing = encode_largest(*encoder, NUMBER)
    assert len(nothing.values) == 0
    weight = torch.randn(D_SAE, 3, dtype=torch.float64).requires_grad_()
    out = sums(nothing, nothing.tokens, TOKENS, weight)
    assert out.shape == (TOKENS, 3)
    assert out.abs().max() == 0
    out.sum().backward()
    assert weight.grad.abs().max() == 0
    assert encoder[1].grad.abs().max() == 0


def test_the_gradient_of_what_is_selected_is_that_of_dense_autograd(encoder):
    upstream = torch.randn(TOKENS, D_SAE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours = torch.autograd.grad((dense(encode_largest(*encoder, NUMBER)) * upstream).sum(), encoder)
    theirs = torch.autograd.grad((largest(*encoder, NUMBER) * upstream).sum(), encoder)
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, expected)
    assert gradcheck(lambda *parts: encode_largest(*parts, NUMBER).values, encoder)


def test_sums_are_products_with_the_codes_of_each_bag_in_value_and_gradient(encoder):
    """Two bags a token, of which some are empty: one for the first four latents, one for the rest."""
    entries = encode_largest(*encoder, NUMBER)
    values = entries.values.detach().requires_grad_()
    weight = torch.randn(D_SAE, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    weight.requires_grad_()
    entries = entries.having(values)
    second = entries.latents >= 4
    found = sums(entries, 2 * entries.tokens + second, 2 * TOKENS, weight).view(TOKENS, 2, 3)
    codes, first = dense(entries), torch.arange(D_SAE) < 4
    expected = torch.stack([(codes * first) @ weight, (codes * ~first) @ weight], 1)
    torch.testing.assert_close(found, expected)
    assert (found.detach().abs().sum(-1) == 0).any()
    upstream = torch.randn(TOKENS, 2, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad((found * upstream).sum(), (values, weight)),
        torch.autograd.grad((expected * upstream).sum(), (values, weight)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_a_frozen_weight_and_frozen_values_need_no_gradient(encoder):
    entries = encode_largest(*encoder, NUMBER)
    weight = torch.randn(D_SAE, 3, dtype=torch.float64)
    sums(entries, entries.tokens, TOKENS, weight).sum().backward()
    assert encoder[1].grad is not None
    frozen = entries.having(entries.values.detach())
    weight.requires_grad_()
    sums(frozen, frozen.tokens, TOKENS, weight).sum().backward()
    torch.testing.assert_close(weight.grad, dense(frozen).sum(0).unsqueeze(1).expand(-1, 3))


@pytest.mark.parametrize("cut", [0.3, torch.linspace(-1, 1, D_SAE, dtype=torch.float64)])
def test_what_is_above_a_cut_is_selected_whatever_its_sign(encoder, cut):
    x, weight, bias = encoder
    entries = encode_above(*encoder, cut)
    pre = x @ weight.t() + bias
    expected = torch.where(pre > cut, pre, 0)
    torch.testing.assert_close(dense(entries), expected)
    assert entries.counts().tolist() == (expected > 0).sum(0).tolist()
    upstream = torch.randn(TOKENS, D_SAE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours = torch.autograd.grad((dense(entries) * upstream).sum(), encoder)
    theirs = torch.autograd.grad((expected * upstream).sum(), encoder)
    for found, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, wanted)


def test_totals_are_sums_over_the_entries_of_each_latent(encoder):
    entries = encode_largest(*encoder, NUMBER)
    with torch.no_grad():
        found = totals(entries.values, entries.order, entries.starts)
        torch.testing.assert_close(found, dense(entries).sum(0))
