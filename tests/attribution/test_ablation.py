"""Pairs taken out of the interactions, and what that shows, against models without them."""

import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from sae_nfm.attribution.ablation import SetAblations, SingleAblations, Sizes
from sae_nfm.models.codes import Codes
from sae_nfm.models.pairs import PairOrder
from sae_nfm.models.residuals import without_pairs
from sae_nfm.models.residuals.without_pairs import NFMWithoutPairs
from small_attribution import BLOCKS, D_SAE, SITE, small_task

FORMS = [(2, False), (2, True), (3, False)]


def some_pairs(found, number):
    """Pairs that occur, one after the other."""
    keys = found.pairs.keys(D_SAE).unique()[:number]
    return torch.stack([keys // D_SAE, keys % D_SAE], dim=1)


def removed_by_hand(task, found, pairs):
    """φ of a token at a time, without pairs that are named."""
    nfm, codes = task.autoencoder.nfm, found.parts.codes
    f = codes.dense(D_SAE)
    gone = sum(f[:, i : i + 1] * f[:, j : j + 1] * nfm.V[i] * nfm.V[j] for i, j in pairs.tolist())
    left = found.pooled.clone()
    left[:, : task.interactions.d_embed] -= gone * nfm.pool_scale[: task.interactions.d_embed]
    return left


def kl_by_hand(task, found, pooled, add=0.0):
    """Σ KL of every block, with all of the model written out."""
    tokens = task.scored.blocks.all
    scored = tokens != 0
    parts = found.parts
    prefix = task.lm.prefix(tokens, SITE)
    replaced = parts.sae + parts.linear + task.interactions.part(pooled, parts.explained.units) + add
    activation = prefix.activation.masked_scatter(scored.unsqueeze(-1), replaced)
    log_q = task.lm.suffix(activation, prefix.resid, SITE).log_softmax(-1)
    log_p = task.lm.logits(tokens).log_softmax(-1)
    return ((log_p.exp() * (log_p - log_q)).sum(-1) * scored).sum(1)


@pytest.fixture(params=FORMS, ids=str)
def attributed(request, tmp_path):
    task, numbers = small_task(tmp_path, *request.param)
    with torch.no_grad():
        return task, task.attributed(numbers)


@torch.no_grad()
def test_sets_are_left_out_and_given_alone(attributed):
    task, found = attributed
    pairs = some_pairs(found, 30)
    sums = SetAblations([Sizes("some", PairOrder(pairs, D_SAE), [3, 30])], BLOCKS)
    sums.update(found, task.through)
    ablated = sums.compute()["some"]
    for row, size in enumerate((3, 30)):
        left = removed_by_hand(task, found, pairs[:size])
        torch.testing.assert_close(ablated["without"][row], kl_by_hand(task, found, left))
        alone = found.pooled - left
        torch.testing.assert_close(ablated["only"][row], kl_by_hand(task, found, alone))


@torch.no_grad()
def test_all_pairs_without_which_nothing_is_left_of_order_two(tmp_path):
    task, numbers = small_task(tmp_path)
    found = task.attributed(numbers)
    every = some_pairs(found, D_SAE**2)
    codes = found.parts.codes
    chosen = PairOrder(every, D_SAE).places(codes) < len(every)
    left = task.interactions.without(codes, found.pooled, chosen)
    assert left.abs().max() < 1e-12 * found.pooled.abs().max()


@torch.no_grad()
def test_single_pairs_are_left_out_and_given_alone(attributed):
    task, found = attributed
    pairs = some_pairs(found, 6)
    sums = SingleAblations(PairOrder(pairs, D_SAE), torch.ones(len(pairs), dtype=torch.int64))
    sums.update(found, task.through)
    ablated = sums.compute()
    whole = kl_by_hand(task, found, found.pooled)
    constant = found.path.constant
    linear = kl_by_hand(task, found, torch.zeros_like(found.pooled), -constant)
    for place, pair in enumerate(pairs):
        left = removed_by_hand(task, found, pair.unsqueeze(0))
        blocks = torch.zeros(BLOCKS, dtype=torch.bool)
        hit = (found.pairs.i == min(pair)) & (found.pairs.j == max(pair))
        blocks[found.token_block[found.pairs.token[hit]]] = True
        expected = (kl_by_hand(task, found, left) - whole)[blocks].sum()
        assert float(ablated["left_out"][place]) == pytest.approx(float(expected), rel=1e-7, abs=1e-10)
        given = kl_by_hand(task, found, found.pooled - left, -constant)
        expected = (linear - given)[blocks].sum()
        assert float(ablated["given"][place]) == pytest.approx(float(expected), rel=1e-7, abs=1e-10)
        taken_off = found.pairs.taken_off[hit].sum()
        assert float(ablated["attributed"][place]) == pytest.approx(float(taken_off), rel=1e-9)
        assert ablated["blocks"][place] == blocks.sum()


@torch.no_grad()
def test_lengths_are_those_of_one_pair_alone(tmp_path):
    task, _ = small_task(tmp_path)
    pairs = torch.tensor([[0, 3], [7, 2]])
    nfm, interactions = task.interactions.nfm, task.interactions
    codes = Codes(torch.ones(2, 2, dtype=torch.float64), pairs)
    units = task.autoencoder.normalizer.units(torch.zeros(2, nfm.d_out, dtype=torch.float64))
    zero = interactions.part(torch.zeros(2, 5, dtype=torch.float64), units)
    expected = (interactions.part(interactions.pooled(codes), units) - zero).norm(dim=1)
    torch.testing.assert_close(interactions.lengths(pairs), expected)


@pytest.mark.parametrize("at_once", [None, 2 * 6**2])
def test_a_model_without_pairs_is_that_of_the_ablation(tmp_path, monkeypatch, at_once):
    """Its pairs are looked for in all tokens at once, or in two at a time."""
    monkeypatch.setattr(without_pairs, "_ELEMENTS", at_once or without_pairs._ELEMENTS)
    task, numbers = small_task(tmp_path)
    with torch.no_grad():
        found = task.attributed(numbers)
    pairs = some_pairs(found, 10)
    order = [2.0, 1.0, -1.0, -2.0, *[math.nan] * 6]
    table = pa.table({"i": pairs[:, 0].tolist(), "j": pairs[:, 1].tolist(), "taken_off_choosing": order})
    pq.write_table(table, tmp_path / "pairs.parquet")
    nfm = task.interactions.nfm
    model = NFMWithoutPairs(
        D_SAE, nfm.d_out, str(tmp_path / "pairs.parquet"), share=0.4, order=2, d_embed=5, embed_std=0.3,
        linear=True, bias=True, interaction=True, mlp=False, dropout=0, fit="together", fit_k=None,
    ).double()  # fmt: skip
    assert torch.equal(model.left_out, pairs[:4])
    model.load_state_dict(nfm.state_dict() | {"left_out": model.left_out})
    codes = found.parts.codes
    expected = removed_by_hand(task, found, pairs[:4])
    torch.testing.assert_close(model.pool(codes) * model.pool_scale, expected)
    model.pool(codes).sum().backward()
    assert model.V.grad is not None
    assert model.V.grad.abs().sum() > 0
