"""The learning rate: warm-up, plateau, decay."""

import pytest
import torch

from sae_nfm.training.schedule import Schedule


def test_it_rises_stays_and_falls():
    factors = [Schedule(10, warmup=0.2, decay=0.4).factor(step) for step in range(10)]
    assert factors == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])


def test_without_warmup_and_decay_it_is_constant():
    assert {Schedule(10, 0.0, 0.0).factor(step) for step in range(10)} == {1.0}


@pytest.mark.parametrize("num_steps", [1, 2, 7, 1000])
@pytest.mark.parametrize(("warmup", "decay"), [(0.02, 0.3), (1.0, 1.0), (0.5, 0.5), (0.0, 1.0)])
def test_no_step_of_a_run_has_a_rate_of_zero_or_above_the_base(num_steps, warmup, decay):
    schedule = Schedule(num_steps, warmup, decay)
    factors = [schedule.factor(step) for step in range(num_steps)]
    assert min(factors) > 0
    assert max(factors) <= 1


def test_the_scheduler_multiplies_the_optimizers_rate():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=4.0)
    schedule = Schedule(10, 0.2, 0.4)
    scheduler = schedule.scheduler(optimizer)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([4 * schedule.factor(step) for step in range(10)])


@pytest.mark.parametrize(("warmup", "decay", "named"), [(1.5, 0.3, "warmup=1.5"), (0.1, -0.1, "decay=-0.1")])
def test_a_fraction_out_of_range_is_named(warmup, decay, named):
    with pytest.raises(ValueError, match=f"{named}: allowed are fractions from 0 to 1"):
        Schedule(10, warmup, decay)
