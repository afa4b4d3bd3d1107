"""The k largest of a row, by groups as on a GPU."""

import pytest
import torch

from sae_nfm.models.largest import _by_groups, largest, largest_by_groups


@pytest.mark.parametrize(("numbers", "k", "size"), [(768, 8, 9), (770, 8, 9), (100, 1, 10), (64, 8, 2)])
def test_groups_leave_nothing_out(numbers, k, size):
    x = torch.randn(50, numbers, generator=torch.Generator().manual_seed(0))
    values, indices = _by_groups(x, k, size)
    assert torch.equal(values, x.gather(1, indices))
    assert torch.equal(values.sort().values, x.topk(k).values.sort().values)


def test_of_equal_numbers_each_is_taken_once():
    x = torch.randint(3, (50, 200), generator=torch.Generator().manual_seed(0)).float()
    values, indices = _by_groups(x, 40, 5)
    assert torch.equal(values.sort().values, x.topk(40).values.sort().values)
    assert all(len(row.unique()) == 40 for row in indices)


def test_as_topk():
    x = torch.randn(20, 300, generator=torch.Generator().manual_seed(0))
    for find in (largest, largest_by_groups):
        for k in (1, 7, 60, 300):  # of 60 there would be groups too small to help
            assert torch.equal(find(x, k)[0].sort().values, x.topk(k).values.sort().values)
