"""Sums by pair: counted, sketched, kept and gone on from; halves and choices."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from sae_nfm.attribution.choosing import choose
from sae_nfm.attribution.contexts import Contexts, Kept, chance
from sae_nfm.attribution.halves import Batches, halves
from sae_nfm.attribution.resumed import Resumed
from sae_nfm.attribution.sketch import DEPTH, CountSketch
from sae_nfm.attribution.sums import ChosenPairs, PairSums, PairTable
from sae_nfm.evaluation.blocks import ScoredBlocks
from sae_nfm.findings.attribution import Half, accounted, curves, named_pairs
from sae_nfm.models.pairs import PairOrder
from sae_nfm.stages.attributed import Passes, write
from sae_nfm.store.ranks import Ranks
from small_attribution import BLOCKS, D_SAE, small_task


@pytest.fixture
def attributed(tmp_path):
    task, numbers = small_task(tmp_path)
    with torch.no_grad():
        return task, task.attributed(numbers)


def by_pair(table):
    return dict(
        zip(zip(table.i.tolist(), table.j.tolist(), strict=True), table.taken_off.tolist(), strict=True)
    )


def test_pairs_of_latents_beyond_the_busiest_are_estimated_within_the_error(attributed):
    _, found = attributed
    exact, some = PairSums(torch.arange(D_SAE), D_SAE), PairSums(torch.arange(4, 12), D_SAE)
    for sums in (exact, some):
        sums.update(found)
        sums.update(found)
    expected, table = by_pair(exact.compute()), some.compute()
    assert exact.compute().error is None
    error = table.error
    assert error is not None
    counted = {pair for pair in expected if all(4 <= latent < 12 for latent in pair)}
    assert {pair for pair, n in zip(by_pair(table), table.together.tolist(), strict=True) if n > 0} == counted
    assert by_pair(table).keys() == expected.keys()
    for pair, value in by_pair(table).items():
        assert value == pytest.approx(expected[pair], abs=1e-9 if pair in counted else error)
    assert some.entries.sum() == exact.entries.sum() == 2 * len(found.pairs.i)


def test_what_a_half_did_not_keep_is_not_written_as_nothing(attributed, tmp_path):
    task, found = attributed
    first, second = (PairSums(torch.arange(8), D_SAE) for _ in range(2))
    first.update(found)
    with torch.no_grad():
        second.update(task.attributed(torch.tensor([0])))
    passes = Passes(task, SimpleNamespace(sums=SimpleNamespace(pairs=second)), None, first.compute(), None)
    write({}, {}, passes, tmp_path)
    table = pq.read_table(tmp_path / "attribution" / "pairs.parquet").to_pydict()
    there, seen = by_pair(second.compute()), set()
    for i, j, off, together in zip(
        *(table[name] for name in ("i", "j", "taken_off_verifying", "together_verifying")), strict=True
    ):
        kept, counted = (i, j) in there, max(i, j) < 8
        assert off == pytest.approx(there.get((i, j), 0 if counted else math.nan), nan_ok=True)
        assert (together < 0) == (not counted)
        seen.add((kept, counted))
    assert len(seen) == 4


def test_a_sketch_finds_heavy_keys_among_many_within_its_error():
    generator = torch.Generator().manual_seed(0)
    keys = torch.randint(0, 1 << 50, (200_000,), generator=generator)
    values = torch.randn(len(keys), generator=generator, dtype=torch.float64)
    heavy = torch.tensor([5, 1 << 40, 12345])
    keys, values = torch.cat([keys, heavy]), torch.cat([values, torch.tensor([400.0, -300.0, 250.0])])
    sketch = CountSketch(torch.zeros(DEPTH, 1 << 14, dtype=torch.float64))
    for some, of in zip(keys.split(50_000), values.split(50_000), strict=True):
        sketch.add(some, of)
    assert sketch.largest(keys)[:3].tolist() == heavy.tolist()
    off = (sketch.estimate(keys) - values).abs()
    assert (off > sketch.error()).double().mean() < 0.013
    assert sketch.error() < 20


def test_sketches_of_parts_add_up():
    keys, values = torch.arange(1000), torch.randn(1000, dtype=torch.float64)
    whole, parts = (CountSketch(torch.zeros(DEPTH, 256, dtype=torch.float64)) for _ in range(2))
    whole.add(keys, values)
    for place in (slice(0, 300), slice(300, 1000)):
        parts.add(keys[place], values[place])
    torch.testing.assert_close(whole.table, parts.table)


THREE = PairTable(
    i=torch.tensor([0, 1, 2]),
    j=torch.tensor([3, 4, 5]),
    taken_off=torch.tensor([9.0, 5.0, -4.0]).double(),
    squared=torch.tensor([25.0, 1.0, 0.25]).double(),
    product=torch.ones(3).double(),
    together=torch.tensor([8, 40, 40]),
)


def test_pairs_are_named_by_what_they_surely_take_off():
    choice = choose(THREE, torch.ones(3).double(), d_sae=6, named=1, harmful=1, seed=0)
    assert choice.named.tolist() == [[1, 4], [2, 5]]  # 9 is of one large value
    assert choice.orders[0].name == "attribution"


def test_matched_pairs_are_others_and_alike():
    generator = torch.Generator().manual_seed(0)
    every = torch.tensor(list(itertools.combinations(range(80), 2)))
    num = len(every)
    size = torch.rand(num, generator=generator).double() + 0.1
    taken_off = (size * torch.randn(num, generator=generator)).double()
    together = torch.randint(5, 200, (num,), generator=generator)
    table = PairTable(every[:, 0], every[:, 1], taken_off, taken_off**2, size, together)
    choice = choose(table, size, d_sae=80, named=5, harmful=0, seed=0)
    orders = {each.name: each for each in choice.orders}
    assert list(orders) == ["attribution", "matched", "size", "random"]
    assert orders["attribution"].sizes[-1] == round(0.1 * num)
    keys = {name: set(each.order._keys.tolist()) for name, each in orders.items()}
    assert not keys["attribution"] & keys["matched"]
    assert choice.match["size"] == pytest.approx(1, abs=0.05)
    assert choice.match["together"] == pytest.approx(1, abs=0.05)
    assert len(choice.singles) == 200


def test_halves_share_no_document_and_leave_little_out(splits):
    scored = ScoredBlocks(splits.test, 3000, False, "all", 1, 4)
    dealt = halves(scored)
    documents = []
    for numbers in (dealt.choosing, dealt.verifying):
        counts = scored.scored(torch.from_numpy(numbers), splits.test.tokens(numbers))
        documents.append(set(splits.test.documents(numbers)[counts].tolist()))
    assert documents[0]
    assert documents[1]
    assert not documents[0] & documents[1]
    assert len(dealt.choosing) + len(dealt.verifying) + dealt.left_out == scored.num_blocks
    assert dealt.left_out <= 16


def test_halves_of_a_single_document_are_refused():
    class TwoDocuments:
        """Blocks 0 to 59 are of one document, the others of another, as long as two thirds of it."""

        num_tokens = 700

        def __init__(self):
            self.blocks = self

        def numbers(self):
            return np.arange(100)

        def tokens(self, numbers):
            return torch.ones(len(numbers), 7, dtype=torch.int64)

        def scored(self, numbers, tokens):
            return tokens > 0

        def documents(self, numbers):
            return torch.from_numpy(numbers >= 60).long().unsqueeze(1).expand(-1, 7)

    with pytest.raises(
        ValueError, match=r"attribution\.tokens=700: a half has [01]; allowed are so many that"
    ):
        halves(TwoDocuments())


def test_one_pair_is_named_as_several_are():
    sums = ChosenPairs(PairOrder(torch.tensor([[1, 4]]), 6), 3)
    sums.by_document += torch.tensor([[1.0, 2.0, 4.0]])
    sums.together += 5
    of_documents = {"kl_sae_linear": np.full(3, 9.0), "kl_sae_nfm": np.full(3, 6.0)}
    half = Half(of_documents, np.full(3, 10.0), np.arange(3))
    choice = choose(THREE, torch.ones(3).double(), d_sae=6, named=1, harmful=0, seed=0)
    (named,) = named_pairs(choice, False, THREE, sums.compute(), torch.ones(1), half)
    assert named["latents"] == [1, 4]
    assert named["together"] == 5


@pytest.mark.parametrize(("of_control", "times"), [([0.5, 0.6, 0.4], 2), ([0.5, -0.6, 0.4], None)])
def test_a_control_that_may_take_away_nothing_is_no_measure_of_the_best(of_control, times):
    of_documents = {"kl_sae_linear": np.full(3, 9.0), "kl_sae_nfm": np.full(3, 6.0)}
    half = Half(of_documents, np.full(3, 10.0), np.arange(3))
    every = choose(THREE, torch.ones(3).double(), d_sae=6, named=1, harmful=0, seed=0)
    two = [each for each in every.orders if each.name in ("attribution", "random")]
    rows = {"attribution": [1.0, 1.2, 0.8], "random": of_control}
    sets = {
        name: {"without": 6 + torch.tensor([row]).double(), "only": torch.full((1, 3), 8.0).double()}
        for name, row in rows.items()
    }
    necessity = curves(every._replace(orders=two), sets, half)["necessity"]
    assert necessity["best_control"] == "random"
    found = necessity["times_best_control"]
    assert found is None if times is None else found["value"] == pytest.approx(times)


@pytest.mark.parametrize(("of_linear", "share"), [([9.0, 8.0, 10.0], 0.5), ([27.0, 0.0, 0.0], None)])
def test_shares_of_a_kl_that_may_be_nothing_are_withheld(of_linear, share):
    kl = np.array(of_linear)
    parts = {"kl_sae": kl, "kl_sae_linear": kl, "kl_sae_nfm": kl / 2, "kl_nothing": 2 * kl}
    parts |= {"constant": 0 * kl, "pairs": kl / 2, "sae": kl, "linear": 0 * kl}
    parts |= {f"error_{name}": kl / 3 for name in ("linear", "interactions", "rest")}
    found = accounted(Half(parts, np.full(3, 10.0), np.arange(3)), ["pairs"])
    shares = [found["share_of_linear"], found["error"]["rest"]["share"]]
    values = [each and each["value"] for each in shares]
    assert values == ([None, None] if share is None else pytest.approx([share, 1 / 3]))


def test_batches_are_dealt_and_go_on():
    batches = Batches(np.arange(11), 2)
    assert [batch.tolist() for batch in batches][-1] == [10]
    batches.rank, batches.world_size = 1, 2
    assert [batch.tolist() for batch in batches] == [[2, 3], [6, 7], [10]]
    batches.done = 2
    assert [batch.tolist() for batch in batches] == [[10]]


def test_sums_that_were_kept_are_gone_on_from(attributed, tmp_path):
    task, found = attributed
    contexts = Contexts(PairOrder(torch.tensor([[0, 1], [2, 3]]), D_SAE), [0, 1, 2, 3])
    resumed = Resumed(tmp_path / "kept", "all", "of a test", Ranks(), every=2)
    for _ in range(2):
        task.sums.pairs.update(found)
        contexts.update(found)
        resumed.keep(task.metrics, contexts, 5.0)
    other, _ = small_task(tmp_path)
    again = Contexts(PairOrder(torch.tensor([[0, 1], [2, 3]]), D_SAE), [0, 1, 2, 3])
    other_run = Resumed(tmp_path / "kept", "all", "of a test", Ranks(), every=2)
    assert other_run.restore(other.metrics, again) == (2, 5.0)
    assert by_pair(other.sums.pairs.compute()) == by_pair(task.sums.pairs.compute())
    assert str(again.joined(Ranks())) == str(contexts.joined(Ranks()))
    changed = Resumed(tmp_path / "kept", "all", "of another test", Ranks(), every=2)
    assert changed.restore(other.metrics, again) == (0, 0.0)


def test_the_best_blocks_of_every_item_are_kept_whoever_sees_them():
    scores = torch.rand(3, 40, generator=torch.Generator().manual_seed(0))
    whole, halves_of = Kept(3, 4), [Kept(3, 4), Kept(3, 4)]
    for start in range(0, 40, 8):
        some, numbers = scores[:, start : start + 8], list(range(start, start + 8))
        for kept in (whole, halves_of[start // 8 % 2]):
            kept.offer(some, numbers, lambda item, place, numbers=numbers: numbers[place])

    class Two(Ranks):
        def gathered(self, value):
            return [kept.items for kept in halves_of]

    assert whole.joined(Ranks()) == scores.topk(4).indices.tolist()
    assert halves_of[0].joined(Two()) == scores.topk(4).indices.tolist()


def test_chance_is_the_same_for_everyone_and_even():
    drawn = [chance(block, item) for block in range(200) for item in range(20)]
    assert drawn[:20] == [chance(0, item) for item in range(20)]
    assert min(drawn) >= 0
    assert max(drawn) < 1
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.02)


def test_contexts_hold_what_the_tokens_have(attributed):
    task, found = attributed
    pair = int(found.pairs.keys(D_SAE)[found.pairs.taken_off.abs().argmax()])
    latents = [pair // D_SAE, pair % D_SAE]
    contexts = Contexts(PairOrder(torch.tensor([latents]), D_SAE), latents)
    contexts.update(found)
    kept = contexts.joined(Ranks())
    best = kept["pairs"]["most"][0][0]
    hit = (found.pairs.i == latents[0]) & (found.pairs.j == latents[1])
    largest = float(found.pairs.taken_off[hit].abs().max())
    assert abs(best["taken_off"][best["peak"]]) == pytest.approx(largest)
    assert len(kept["latents"]) == 2
    assert len(kept["passages"]["any"]) == BLOCKS
    passage = kept["passages"]["repaired"][0]
    assert passage["kl"]["sae_nfm"].shape == passage["tokens"].shape
    assert task.sums.parts.parts[0] == "kl_sae"
