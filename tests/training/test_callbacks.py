"""What a run says of itself where there is no terminal."""

import logging
from types import SimpleNamespace

import pytest
import torch

from sae_nfm.training import callbacks
from sae_nfm.training.callbacks import ProgressLines


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    time = SimpleNamespace(now=0.0)
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: time.now)
    return time


def lines_of(caplog):
    return [record.getMessage() for record in caplog.records if record.name == callbacks.__name__]


def test_training_is_told_every_half_minute_and_at_its_end(clock, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    lines = ProgressLines()
    figures = {"validation/l0": 4.123456, "v_num": 3, "name": "sae"}
    monkeypatch.setattr(lines, "get_metrics", lambda trainer, module: figures)
    for step in range(1, 101):
        clock.now += 1
        trainer = SimpleNamespace(global_step=step, max_steps=100)
        lines.on_train_batch_end(trainer, torch.nn.Linear(1, 1), {}, None, step)
    assert lines_of(caplog) == [
        "step 31 of 100, 1.0 per second, validation/l0 4.123",
        "step 62 of 100, 1.0 per second, validation/l0 4.123",
        "step 93 of 100, 1.0 per second, validation/l0 4.123",
        "step 100 of 100, 1.0 per second, validation/l0 4.123",
    ]


def test_an_evaluation_is_told_every_half_minute(clock, caplog):
    caplog.set_level(logging.INFO)
    lines = ProgressLines()
    for batch in range(40):
        clock.now += 2
        lines.on_test_batch_end(SimpleNamespace(), torch.nn.Linear(1, 1), {}, None, batch)
    said = [f"evaluation, batch {batch}, 0.5 per second" for batch in (16, 32)]
    assert lines_of(caplog) == said


def test_other_processes_say_nothing(clock, caplog):
    caplog.set_level(logging.INFO)
    lines = ProgressLines()
    lines.disable()
    clock.now = 100.0
    lines.on_test_batch_end(SimpleNamespace(), torch.nn.Linear(1, 1), {}, None, 0)
    assert lines_of(caplog) == []
