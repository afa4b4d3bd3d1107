"""Elementary symmetric sums in float32: right whichever latents outshine the others."""

from itertools import combinations
from math import prod

import pytest
import torch

from sae_nfm.models.codes import Codes
from sae_nfm.models.symmetric import elementary_symmetric_sums, from_power_sums

pytestmark = pytest.mark.usefixtures("way")


def anova(codes, embeddings, order):
    """e_1 … e_order by the recursion over latents, which subtracts nothing."""
    vectors = (codes.values.unsqueeze(-1) * embeddings[codes.indices]).unbind(1)
    sums = [torch.zeros_like(vectors[0]) for _ in range(order)]
    for z in vectors:
        sums = [e + z * below for e, below in zip(sums, [torch.ones_like(z), *sums[:-1]], strict=True)]
    return sums


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_from_power_sums_against_brute_force(order):
    numbers = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    symmetric = from_power_sums([(numbers**j).sum(0) for j in range(1, order + 1)])
    assert len(symmetric) == order
    for degree, value in enumerate(symmetric, start=1):
        torch.testing.assert_close(value, sum(prod(chosen) for chosen in combinations(numbers, degree)))


@pytest.mark.parametrize("num_large", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("factor", [100.0, 1000.0, 1e5])
@pytest.mark.parametrize("k", [3, 32])
def test_float32_keeps_every_order_where_some_latents_are_far_larger(k, factor, num_large):
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(64, k, generator=generator)
    values[:, :num_large] *= factor
    indices = torch.rand(64, 100, generator=generator).topk(k, dim=-1).indices
    embeddings = torch.randn(100, 48, generator=generator)
    exact = anova(Codes(values.double(), indices), embeddings.double(), 4)
    for order in (2, 3, 4):
        found = elementary_symmetric_sums(Codes(values, indices), embeddings, order)[:, -1]
        scale = exact[order - 1].norm().clamp_min(1e-30)
        if k < order:
            assert found.abs().max() == 0
        else:
            assert (found - exact[order - 1]).norm() / scale < 2e-6


@pytest.mark.parametrize("order", [2, 3, 4])
def test_every_order_below_stands_beside_the_highest(order):
    generator = torch.Generator().manual_seed(2)
    values = torch.rand(2, 5, 6, generator=generator, dtype=torch.float64)
    indices = torch.rand(2, 5, 9, generator=generator).topk(6, dim=-1).indices
    embeddings = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    found = elementary_symmetric_sums(Codes(values, indices), embeddings, order)
    flat = Codes(values.flatten(0, 1), indices.flatten(0, 1))
    exact = torch.stack(anova(flat, embeddings, order)[1:], dim=1)
    torch.testing.assert_close(found.flatten(0, 1), exact)


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("k", [1, 2, 6])
def test_gradients_reach_the_large_latents_and_the_others(order, k):
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(3, k, generator=generator, dtype=torch.float64)
    values[:, 0] = 50
    indices = torch.rand(3, 9, generator=generator).topk(k, dim=-1).indices
    embeddings = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda v, e: elementary_symmetric_sums(Codes(v, indices), e, order),
        (values.requires_grad_(), embeddings.requires_grad_()),
    )
