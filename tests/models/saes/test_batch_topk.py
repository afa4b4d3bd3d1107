"""BatchTopK and Matryoshka: θ and how it moves, and the nested dictionaries' errors."""

import pytest
import torch

from sae_nfm.models.saes.base import variance
from sae_nfm.models.saes.batch_topk import BatchTopKSAE
from sae_nfm.models.saes.firing import Firing
from sae_nfm.models.saes.matryoshka import MatryoshkaSAE

D_IN, D_SAE, K, TOKENS = 8, 32, 3, 40


@pytest.fixture
def x():
    return torch.randn(TOKENS, D_IN, generator=torch.Generator().manual_seed(1))


def made(cls, **settings):
    torch.manual_seed(0)
    return cls(D_IN, D_SAE, K, b_dec_init="zero", **settings)


def test_the_threshold_follows_the_least_latent_that_is_kept(x):
    sae = made(BatchTopKSAE)
    sae.threshold.fill_(0.25)
    least = (x @ sae.W_enc).flatten().topk(K * TOKENS).values[-1].item()
    sae.attempt(x, Firing(D_SAE))
    assert sae.threshold.item() == 0.25
    sae.after_step_()
    moved = (sae.threshold.item() - 0.25) / (least - 0.25)
    assert 0 < moved < 0.1
    for _ in range(1000):
        sae.after_step_()
    assert sae.threshold.item() == pytest.approx(least, rel=1e-4)


def test_a_batch_without_any_active_latent_leaves_the_threshold_where_it_is(x):
    sae = made(BatchTopKSAE)
    sae.threshold.fill_(0.25)
    with torch.no_grad():
        sae.b_enc.fill_(-100)
    attempt = sae.attempt(x, Firing(D_SAE))
    assert attempt.l0 == 0
    sae.after_step_()
    assert sae.threshold.item() == 0.25


def test_tokens_may_have_more_or_fewer_than_k_active_latents(x):
    sae = made(BatchTopKSAE)
    sae.initialize_(x)
    counts = (sae.encode(x * torch.linspace(0.2, 2, TOKENS).unsqueeze(1)).values > 0).sum(1)
    assert counts.min() < K < counts.max()


@pytest.mark.parametrize("k", [0, D_SAE + 1])
def test_k_out_of_range_is_named(k):
    with pytest.raises(ValueError, match=f"k={k}"):
        BatchTopKSAE(D_IN, D_SAE, k)


@pytest.mark.parametrize(
    ("prefixes", "sizes"),
    [
        ([0.25, 0.5], [8, 16, 32]),
        ([0.5, 0.25, 1.0], [8, 16, 32]),
        ([], [32]),
        ([0.001, 0.5, 0.51], [1, 16, 32]),
    ],
)
def test_the_nested_sizes_end_with_the_full_one(prefixes, sizes):
    assert made(MatryoshkaSAE, prefixes=prefixes).sizes == sizes


def test_each_prefix_is_a_dictionary_of_its_own_whose_error_counts(x):
    sae = made(MatryoshkaSAE, prefixes=[0.25, 0.5], prefix_coefficient=0.3)
    with torch.no_grad():
        sae.b_dec.normal_()
    attempt = sae.attempt(x, Firing(D_SAE))
    pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    f = torch.where(pre >= pre.flatten().topk(K * TOKENS).values[-1], pre, 0)
    by_size = [f[:, :size] @ sae.W_dec[:size] + sae.b_dec for size in (8, 16, 32)]
    torch.testing.assert_close(attempt.reconstruction, by_size[-1])
    errors = sum((x - reconstruction).pow(2).sum() for reconstruction in by_size[:-1])
    expected = 0.3 * errors / variance(x)
    torch.testing.assert_close(attempt.terms["prefixes"], expected)
    parameters = (sae.W_enc_rows, sae.W_dec, sae.b_dec, sae.b_enc)
    ours = torch.autograd.grad(attempt.terms["prefixes"], parameters)
    theirs = torch.autograd.grad(expected, parameters)
    for found, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    assert ours[0][16:].abs().max() == 0


def test_without_prefixes_it_is_batch_topk(x):
    plain, nested = made(BatchTopKSAE), made(MatryoshkaSAE, prefixes=[])
    attempts = [sae.attempt(x, Firing(D_SAE)) for sae in (plain, nested)]
    assert attempts[1].terms == {}
    torch.testing.assert_close(attempts[0].reconstruction, attempts[1].reconstruction)
