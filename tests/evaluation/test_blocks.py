import pytest
import torch

from sae_nfm.data.tokens import TokenBlocks
from sae_nfm.evaluation.blocks import ScoredBlocks
from sae_nfm.settings.values import NotAllowed


def scored_of(blocks, **settings):
    """Scored and replaced positions of all blocks that an evaluation reads."""
    usual = {"with_bos": False, "replace": "all", "position": 6, "batch_size": 3}
    chosen = ScoredBlocks(blocks, **usual | settings)
    scored, replaced = [], []
    for numbers in chosen:
        tokens = blocks.tokens(numbers.numpy())
        scored.append(chosen.scored(numbers, tokens))
        replaced.append(chosen.replaced(scored[-1]))
    return chosen, torch.cat(scored), torch.cat(replaced)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("num_tokens", [1, 14, 15, 16, 100, 333])
def test_exactly_as_many_positions_as_asked_for(splits, num_tokens, batch_size):
    chosen, scored, replaced = scored_of(splits.test, num_tokens=num_tokens, batch_size=batch_size)
    assert {len(numbers) for numbers in chosen} <= set(range(1, batch_size + 1))
    assert scored.sum() == num_tokens == chosen.num_tokens
    assert torch.equal(scored, replaced)


def test_bos_is_left_out_unless_it_is_patched(splits):
    blocks = splits.test
    chosen, scored, _ = scored_of(blocks, num_tokens=200)
    tokens = blocks.tokens(torch.cat(list(chosen)).numpy())
    assert not (scored & (tokens == blocks.bos_id)).any()
    _, patched, _ = scored_of(blocks, num_tokens=10 * blocks.context, with_bos=True)
    assert patched.all()
    assert len(patched) == 10


def test_skipped_positions_keep_their_activation_and_are_not_scored(splits):
    folder, split, context, _ = splits.test.source
    blocks = TokenBlocks(folder, split, context, 3, splits.test.bos_id)
    for with_bos in (False, True):
        _, scored, replaced = scored_of(blocks, num_tokens=200, with_bos=with_bos)
        assert not scored[:, 1:4].any()
        assert scored[:, 0].all() == with_bos
        assert torch.equal(scored, replaced)
        assert scored.sum() == 200
    with pytest.raises(NotAllowed, match=f"evaluation.position=2.*4 to {context - 1}"):
        ScoredBlocks(blocks, 60, False, "single", 2, 3)


def test_a_small_split_is_used_up(splits):
    chosen, scored, _ = scored_of(splits.test, num_tokens=10**9)
    assert chosen.num_tokens == scored.sum() == splits.test.num_scored().sum()


def test_a_single_position_is_replaced_and_what_follows_is_scored(splits):
    _, scored, replaced = scored_of(splits.test, num_tokens=60, replace="single")
    assert replaced[:, 6].all()
    assert replaced.sum() == len(replaced)
    assert not scored[:, :6].any()
    assert scored.sum() == 60


def test_processes_share_the_blocks_without_overlap(splits):
    chosen = ScoredBlocks(splits.test, 333, False, "all", 1, 4)
    parts = []
    for chosen.rank in range(3):
        chosen.world_size = 3
        parts += [number for batch in chosen for number in batch.tolist()]
    assert len(parts) == len(set(parts)) == chosen.num_blocks


def test_few_positions_come_from_documents_all_over_the_split(splits):
    """In the text's order the first blocks would all be of the first documents."""
    blocks = splits.test
    chosen, scored, _ = scored_of(blocks, num_tokens=20 * (blocks.context - 1))
    numbers = torch.cat(list(chosen))
    documents = blocks.documents(numbers.numpy())[scored].unique()
    assert len(documents) > 1.5 * len(blocks.documents(range(len(numbers))).unique())
    assert torch.equal(numbers, torch.cat(list(scored_of(blocks, num_tokens=20 * (blocks.context - 1))[0])))


def test_settings_out_of_range_are_named(splits):
    with pytest.raises(ValueError, match=r"evaluation\.position=16: allowed are 1 to 15"):
        ScoredBlocks(splits.test, 10, False, "single", 16, 4)
    with pytest.raises(ValueError, match=r"evaluation\.batch_size=0"):
        ScoredBlocks(splits.test, 10, False, "all", 1, 0)


def test_positions_of_one_document_are_told_from_those_of_more(splits):
    for num_tokens in (1, 2, 5, 10, 15, 30, 200):
        chosen, scored, _ = scored_of(splits.test, num_tokens=num_tokens)
        documents = splits.test.documents(torch.cat(list(chosen)).numpy())[scored]
        assert chosen.is_one_document() is (len(documents.unique()) == 1), num_tokens
    assert scored_of(splits.test, num_tokens=1)[0].is_one_document()
    assert not chosen.is_one_document()


def test_signatures_are_equal_where_the_same_positions_are_scored(splits):
    def signature(blocks=splits.test, **settings):
        return scored_of(blocks, **({"num_tokens": 60} | settings))[0].signature()

    usual = signature()
    assert signature(batch_size=7) == usual
    assert signature(position=3) == usual  # of no meaning where all are replaced
    folder, split, context, _ = splits.test.source
    skipping = TokenBlocks(folder, split, context, 3, splits.test.bos_id)
    others = [
        signature(num_tokens=61),
        signature(with_bos=True),
        signature(replace="single"),
        signature(splits.validation),
        signature(skipping),
    ]
    assert len({str(each) for each in [usual, *others]}) == 6
