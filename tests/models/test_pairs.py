"""Pairs of latents within a token."""

import itertools

import torch

from sae_nfm.models.codes import Codes
from sae_nfm.models.pairs import PairOrder, sum_over_pairs

D_SAE, K = 12, 5


def codes_of(tokens):
    generator = torch.Generator().manual_seed(0)
    indices = torch.stack([torch.randperm(D_SAE, generator=generator)[:K] for _ in range(tokens)])
    return Codes(torch.rand(tokens, K, generator=generator, dtype=torch.float64), indices)


def test_a_pair_is_found_whatever_its_order():
    pairs = torch.tensor([[7, 2], [0, 11], [3, 4]])
    codes = Codes(torch.ones(1, 4), torch.tensor([[2, 7, 11, 0]]))
    places = PairOrder(pairs, D_SAE).places(codes)[0]
    expected = torch.full((4, 4), 3)
    expected[0, 1] = expected[1, 0] = 0
    expected[2, 3] = expected[3, 2] = 1
    assert torch.equal(places, expected)


def test_no_pair_is_found_in_an_order_of_none():
    codes = codes_of(3)
    order = PairOrder(torch.zeros(0, 2, dtype=torch.int64), D_SAE)
    assert not (order.places(codes) < order.num_pairs).any()


def test_sums_are_those_of_the_pairs_one_by_one():
    codes, embeddings = codes_of(9), torch.randn(D_SAE, 3, dtype=torch.float64)
    every = list(itertools.combinations(range(D_SAE), 2))
    chosen = every[::3]
    order = PairOrder(torch.tensor(chosen), D_SAE)
    found = sum_over_pairs(codes, embeddings, order.places(codes) < order.num_pairs)
    f = codes.dense(D_SAE)
    expected = sum(f[:, i : i + 1] * f[:, j : j + 1] * embeddings[i] * embeddings[j] for i, j in chosen)
    torch.testing.assert_close(found, expected)


def test_the_first_pairs_of_an_order_are_a_set():
    codes = codes_of(9)
    every = torch.tensor(list(itertools.combinations(range(D_SAE), 2)))
    order = PairOrder(every, D_SAE)
    some = PairOrder(every[:20], D_SAE)
    assert torch.equal(order.places(codes) < 20, some.places(codes) < some.num_pairs)
