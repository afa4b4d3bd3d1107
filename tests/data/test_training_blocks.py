"""Whole blocks to train on: the same for any number of processes, and from any step on."""

from itertools import islice

import pytest
import torch

from sae_nfm.data.training_blocks import BlockModule, DealtBlocks
from sae_nfm.settings.values import NotAllowed


class Trainer:
    def __init__(self, rank, world_size):
        self.global_rank, self.world_size, self.global_step = rank, world_size, 0


def dealt(splits, steps, step=0, rank=0, world_size=1, per_step=6):
    return list(islice(DealtBlocks(splits.train, per_step, step, rank, world_size, seed=3), steps))


def rows(batches):
    return {tuple(row.tolist()) for batch in batches for row in batch}


def test_a_round_deals_every_block_once_in_an_order_of_its_own(splits):
    number = len(splits.train) // 6
    first, second = dealt(splits, number), dealt(splits, number, step=len(splits.train))
    assert all(batch.shape == (6, splits.train.context) for batch in first)
    assert len(torch.cat(first)) == 6 * number
    assert len(rows(first)) > 0.9 * 6 * number  # the corpus repeats itself a little
    assert not torch.equal(first[0], second[0])


def test_it_goes_on_from_any_step(splits):
    whole = dealt(splits, len(splits.train) // 6 + 4)
    for step in (1, len(splits.train) // 6 + 2):
        assert torch.equal(dealt(splits, 1, step=step)[0], whole[step])


def test_processes_share_the_blocks_of_a_step(splits):
    whole = dealt(splits, 5)
    parts = [dealt(splits, 5, rank=rank, world_size=3) for rank in range(3)]
    for step, batch in enumerate(whole):
        assert all(len(part[step]) == 2 for part in parts)
        assert rows([batch]) == rows(part[step] for part in parts)


def test_blocks_that_do_not_divide_are_refused(splits):
    with pytest.raises(NotAllowed, match=r"batch_tokens=96: allowed are as many as give each of 4 processes"):
        DealtBlocks(splits.train, 6, 0, 0, 4, seed=0)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_processes_validate_on_the_same_blocks_equally_often(splits, world_size):
    parts = []
    for rank in range(world_size):
        module = BlockModule(splits.train, splits.validation, 6, 20 * 15, seed=5)
        module.trainer = Trainer(rank, world_size)
        parts.append(list(module.val_dataloader()))
    assert len({len(part) for part in parts}) == 1
    assert sum(len(batch) for part in parts for batch in part) == 20
    alone = BlockModule(splits.train, splits.validation, 6, 20 * 15, seed=6)
    alone.trainer = Trainer(0, 1)
    assert rows(batch for part in parts for batch in part) == rows(alone.val_dataloader())


@pytest.mark.parametrize(("num_blocks", "per_step"), [(5, 2), (7, 3), (251, 2)])
def test_no_process_is_left_with_a_batch_of_no_block(num_blocks, per_step):
    """Two that read the model take turns in every batch, and a model refuses an empty one."""

    class Blocks:
        context = 128

        def __len__(self):
            return 10**6

        def order(self, seed, round_number):
            return torch.arange(10**6).numpy()

        def tokens(self, numbers):
            return torch.as_tensor(numbers).unsqueeze(1)

    parts = []
    for rank in range(2):
        module = BlockModule(Blocks(), Blocks(), per_step, num_blocks * 127, seed=0)
        parts.append(list(module.held_out(rank, 2)))
    assert len(parts[0]) == len(parts[1])
    assert all(len(batch) for part in parts for batch in part)
    assert len(torch.cat([*parts[0], *parts[1]]).unique()) == num_blocks
    with pytest.raises(NotAllowed, match=r"validation_tokens=254: they are 2 whole blocks, of which"):
        BlockModule(Blocks(), Blocks(), 3, 254, seed=0).held_out(0, 3)


def test_a_checkpoint_keeps_the_step(splits):
    module = BlockModule(splits.train, splits.validation, 6, 100, seed=0)
    module.trainer = Trainer(0, 1)
    module.trainer.global_step = 4
    again = BlockModule(splits.train, splits.validation, 6, 100, seed=0)
    again.trainer = module.trainer
    again.load_state_dict(module.state_dict())
    assert torch.equal(next(iter(again.train_dataloader())), dealt_with(splits, 0, 4))


def dealt_with(splits, seed, step):
    return next(iter(DealtBlocks(splits.train, 6, step, 0, 1, seed)))
