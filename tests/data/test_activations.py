"""The training stream: every token once a round, shuffled, sharded and resumed by arithmetic."""

from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sae_nfm.data.activations import ActivationModule, ActivationStream, Pool, PooledBatches
from sae_nfm.data.tokens import TokenBlocks
from sae_nfm.lm.site import Prefix, Site

SITE = Site(0, "resid_post")
POOL = Pool(tokens=240, batch=60)


class TokenIds:
    """An LM whose activation is the token's id and the number of its place in the split."""

    device = torch.device("cpu")

    def __init__(self, blocks):
        width = blocks.context
        every = blocks.tokens(range(len(blocks)))
        self.place = {tuple(row.tolist()): i * width for i, row in enumerate(every)}
        assert len(self.place) == len(blocks), "two blocks are equal: the test could not tell them apart"
        self.largest_batch = 0

    def prefix(self, tokens, site):
        self.largest_batch = max(self.largest_batch, len(tokens))
        first = torch.tensor([self.place[tuple(row.tolist())] for row in tokens])
        places = first.unsqueeze(1) + torch.arange(tokens.shape[1])
        activation = torch.stack([tokens, places], dim=-1).float()
        return Prefix(activation, activation)


@pytest.fixture(scope="module", params=[0, 2], ids=["all", "two_skipped"])
def blocks(splits, request):
    folder, split, context, _ = splits.train.source
    return TokenBlocks(folder, split, context, request.param, splits.train.bos_id)


def stream_of(blocks, lm_batch=5, seed=0):
    return ActivationStream(TokenIds(blocks), SITE, blocks, lm_batch, seed)


def places(activations):
    """Where in the split each token is, as integers."""
    return activations[:, 1].long().tolist()


@pytest.fixture(scope="module")
def scored_places(blocks):
    tokens = blocks.tokens(range(len(blocks)))
    counted = tokens != blocks.bos_id
    counted[:, 1 : 1 + blocks.skipped] = False
    return set(counted.flatten().nonzero().squeeze(1).tolist())


@pytest.mark.parametrize("seed", [0, 1])
def test_a_round_holds_every_token_but_bos_and_the_skipped_exactly_once(blocks, scored_places, seed):
    stream = stream_of(blocks, seed=seed)
    assert stream.tokens_per_round == len(scored_places)
    activations = stream.read(0, stream.tokens_per_round)
    assert len(activations) == stream.tokens_per_round
    assert set(places(activations)) == scored_places
    assert not (activations[:, 0] == blocks.bos_id).any()


@pytest.mark.parametrize("lm_batch", [1, 3, 1000])
def test_any_range_is_a_piece_of_the_same_sequence(blocks, lm_batch):
    stream = stream_of(blocks, lm_batch=lm_batch)
    n = stream.tokens_per_round
    whole = places(stream_of(blocks).read(0, 3 * n))
    generator = np.random.default_rng(1)
    bounds = [tuple(sorted(generator.integers(0, 3 * n, size=2))) for _ in range(25)]
    for start, stop in [*bounds, (0, 1), (n - 1, n), (n - 1, n + 1), (n, n + 1), (n - 5, 2 * n + 5)]:
        if start < stop:
            assert places(stream.read(int(start), int(stop))) == whole[start:stop]
    assert stream.lm.largest_batch <= lm_batch


def test_every_round_is_permuted_anew_and_holds_the_same_tokens(blocks, scored_places):
    stream = stream_of(blocks)
    n = stream.tokens_per_round
    rounds = [places(stream.read(i * n, (i + 1) * n)) for i in range(3)]
    assert all(set(tokens) == scored_places and len(tokens) == n for tokens in rounds)
    assert rounds[0] != rounds[1] != rounds[2] != rounds[0]


def test_another_seed_is_another_order(blocks):
    assert places(stream_of(blocks, seed=0).read(0, 100)) != places(stream_of(blocks, seed=1).read(0, 100))


def batches(blocks, count, step=0, rank=0, world_size=1, pool=POOL, seed=0):
    dealt = PooledBatches(stream_of(blocks), pool, step, rank, world_size, seed)
    return list(islice(dealt, count))


def test_the_pool_holds_as_many_tokens_as_it_says_each_once(blocks):
    expected = places(stream_of(blocks).read(0, 720))
    dealt = batches(blocks, 12)
    assert [len(batch) for batch in dealt] == [60] * 12
    for pool in range(3):
        mixed = [place for batch in dealt[pool * 4 : (pool + 1) * 4] for place in places(batch)]
        assert len(mixed) == 240
        assert sorted(mixed) == sorted(expected[pool * 240 : (pool + 1) * 240])
        assert mixed != expected[pool * 240 : (pool + 1) * 240]


def test_a_batch_is_mixed_from_all_over_its_pool(blocks):
    expected = places(stream_of(blocks).read(0, 240))
    where = [expected.index(place) // 60 for place in places(batches(blocks, 1)[0])]
    assert min(where.count(quarter) for quarter in range(4)) >= 5


def test_several_rounds_through_the_pool_deal_every_token_once_a_round(blocks, scored_places):
    n = len(scored_places)
    rounds = 2  # of which the pool holds both, so that a token is in it twice
    pool = Pool(rounds * n, n)
    dealt = [place for batch in batches(blocks, rounds, pool=pool) for place in places(batch)]
    assert len(dealt) == rounds * n
    assert all(dealt.count(place) == rounds for place in list(scored_places)[:50])
    assert set(dealt) == scored_places


@pytest.mark.parametrize("step", [1, 3, 4, 7, 9])
def test_a_restart_at_a_step_deals_the_same_batches(blocks, step):
    whole = batches(blocks, 12)
    resumed = batches(blocks, 12 - step, step=step)
    assert all(torch.equal(a, b) for a, b in zip(whole[step:], resumed, strict=True))


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_a_pool_without_overlap(blocks, world_size):
    expected = places(stream_of(blocks).read(0, 480))
    ranks = [batches(blocks, 8, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert {len(batch) for rank in ranks for batch in rank} == {60 // world_size}
    for pool in range(2):
        dealt = [
            place for rank in ranks for batch in rank[pool * 4 : pool * 4 + 4] for place in places(batch)
        ]
        assert sorted(dealt) == sorted(expected[pool * 240 : (pool + 1) * 240])


def test_another_seed_deals_another_order(blocks):
    assert not torch.equal(batches(blocks, 1, seed=0)[0], batches(blocks, 1, seed=1)[0])


@pytest.mark.parametrize(
    ("tokens", "batch", "words"),
    [
        (100, 30, ["pool_tokens=100", "batch_tokens=30"]),
        (20, 30, ["pool_tokens=20", "batch_tokens=30"]),
        (0, 30, ["tokens=0", "from 1"]),
        (30, 0, ["batch=0", "from 2"]),
    ],
)
def test_sizes_that_do_not_fit_are_named(tokens, batch, words):
    with pytest.raises(ValueError, match="allowed") as error:
        Pool(tokens, batch)
    assert all(word in str(error.value) for word in words)


def test_a_batch_that_the_processes_cannot_share_is_named(blocks):
    with pytest.raises(ValueError, match="batch_tokens=60: allowed are multiples of the 7 processes"):
        batches(blocks, 1, world_size=7)


def test_the_stream_reads_the_real_model_at_its_site(lm, blocks):
    stream = ActivationStream(lm, Site(2, "resid_post"), blocks, 4, seed=3)
    order = np.random.default_rng((3, 0)).permutation(len(blocks))
    tokens = blocks.tokens(order[:6])
    expected = lm.prefix(tokens, Site(2, "resid_post")).activation[blocks.counted(tokens)]
    got = stream.read(0, len(expected))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def documents_of(blocks):
    """The documents of a split as tuples of ids, without the first and the last, which a block may cut."""
    documents, current = [], []
    for token in blocks.tokens(range(len(blocks)))[:, 1:].flatten().tolist():
        if token == blocks.bos_id:
            documents.append(tuple(current))
            current = []
        else:
            current.append(token)
    return set(documents[1:])


def rows_of(blocks):
    return {tuple(row.tolist()) for row in blocks.tokens(range(len(blocks)))}


class Recorder:
    """An LM that remembers the blocks it was given."""

    device = torch.device("cpu")

    def __init__(self):
        self.seen = set()

    def prefix(self, tokens, site):
        self.seen |= {tuple(row.tolist()) for row in tokens}
        activation = tokens.unsqueeze(-1).float()
        return Prefix(activation, activation)


def module_of(splits, lm, validation_tokens=500, rank=0, world_size=1):
    training = ActivationStream(lm, SITE, splits.train, 5, 0)
    validation = ActivationStream(lm, SITE, splits.validation, 5, 0)
    module = ActivationModule(training, validation, POOL, validation_tokens, seed=0)
    module.trainer = SimpleNamespace(global_rank=rank, world_size=world_size)
    return module


def test_no_document_of_one_split_is_in_another(splits):
    train, validation, test = (documents_of(split) for split in splits)
    assert min(len(train), len(validation), len(test)) > 30
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_training_reads_no_block_of_validation_or_evaluation(splits):
    lm = Recorder()
    module = module_of(splits, lm)
    steps = 2 * module.training.tokens_per_round // 60
    assert sum(len(batch) for batch in islice(module.train_dataloader(), steps)) == steps * 60
    assert len(module.training.read(0, 1000)) == 1000
    assert lm.seen == rows_of(splits.train)
    lm.seen.clear()
    assert sum(len(batch) for batch in module.val_dataloader()) == 500
    assert lm.seen < rows_of(splits.validation)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_validation_takes_exactly_the_tokens_asked_for_over_all_processes(splits, world_size):
    lm = TokenIds(splits.validation)
    expected = places(ActivationStream(lm, SITE, splits.validation, 5, 0).read(0, 500))
    dealt = []
    for rank in range(world_size):
        loader = module_of(splits, lm, rank=rank, world_size=world_size).val_dataloader()
        dealt += [place for batch in loader for place in places(batch)]
    assert sorted(dealt) == sorted(expected)


def test_validation_takes_the_whole_split_where_it_holds_no_more(splits):
    module = module_of(splits, TokenIds(splits.validation), validation_tokens=10**9)
    held = int(splits.validation.num_scored().sum())
    assert sum(len(batch) for batch in module.val_dataloader()) == held == module.validation_tokens


def test_the_module_goes_on_from_the_step_of_its_checkpoint(splits):
    lm = TokenIds(splits.train)
    whole = list(islice(module_of(splits, lm).train_dataloader(), 10))
    module = module_of(splits, lm)
    module.trainer.global_step = 7
    state = module.state_dict()
    resumed = module_of(splits, lm)
    resumed.load_state_dict(state)
    for expected, batch in zip(whole[7:], islice(resumed.train_dataloader(), 3), strict=True):
        assert torch.equal(batch, expected)
