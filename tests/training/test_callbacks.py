"""What a run shows of itself: tokens, the figure that matters, and nothing after its end."""

import logging
from types import SimpleNamespace

import pytest
import torch
from lightning import Trainer

from sae_nfm import progress
from sae_nfm.training.callbacks import PassLine, Reached
from small_training import BATCH, Bench, InterruptAt, Interrupted


class Recorded:
    """Stands for a line: what it was told."""

    def __init__(self):
        self.opened, self.at_of, self.ended = [], [], []

    def __call__(self, *about):
        self.opened.append(about)
        return self

    def at(self, done, figure=""):
        self.at_of.append((done, figure))

    def __enter__(self):
        return self

    def __exit__(self, kind, *more):
        self.ended.append(kind)


@pytest.fixture
def line(monkeypatch):
    recorded = Recorded()
    monkeypatch.setattr(progress, "line", recorded)
    return recorded


@pytest.fixture(scope="module")
def bench(lm, splits):
    return Bench(lm, splits)


@pytest.mark.parametrize(("stage", "figure"), [("sae", "EV"), ("nfm", "residual EV")])
def test_training_counts_tokens_and_shows_the_figure_that_chooses(bench, line, tmp_path, stage, figure):
    bench.train(bench.task(stage, steps=20), tmp_path / stage)
    assert line.opened == [(stage, 20 * BATCH, "tokens", 0)]
    assert [done for done, _ in line.at_of] == [step * BATCH for step in range(21)]
    name, _, value = line.at_of[-1][1].rpartition(" ")
    assert name == figure
    assert line.at_of[0][1] != line.at_of[-1][1]  # of the untrained start, and of a validation since
    assert 0 < float(value) < 1
    assert line.ended == [None]


def test_a_resumed_run_begins_where_it_was(bench, line, tmp_path):
    with pytest.raises(Interrupted):
        bench.train(bench.sae_task(), tmp_path, InterruptAt(60))
    assert line.ended == [Interrupted]
    bench.train(bench.sae_task(), tmp_path)
    assert line.opened[1] == ("sae", 120 * BATCH, "tokens", 50 * BATCH)


def test_training_is_told_in_a_log_where_there_is_no_terminal(bench, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    bench.train(bench.sae_task(20), tmp_path)
    (said,) = [record.getMessage() for record in caplog.records if record.name == progress.__name__]
    assert said.startswith("sae: 1.28k tokens in 0:")
    assert "EV 0." in said


def passed(reached, world_size=1):
    shown = PassLine("evaluation", 100, "tokens", lambda: reached.pop(0))
    trainer, module = SimpleNamespace(world_size=world_size), torch.nn.Linear(1, 1)
    shown.on_test_start(trainer, module)
    while reached:
        shown.on_test_batch_end(trainer, module, {}, None, 0)
    shown.on_test_end(trainer, module)


def test_a_pass_counts_the_tokens_of_all_processes(line):
    passed([Reached(0, ""), Reached(30, "KL 0.5"), Reached(51, "KL 0.4")], world_size=2)
    assert line.opened == [("evaluation", 100, "tokens", 0)]
    assert line.at_of == [(60, "KL 0.5"), (100, "KL 0.4")]
    assert line.ended == [None]


def test_processes_but_the_first_have_no_line(line):
    shown = PassLine("evaluation", 100, "tokens", lambda: Reached(0, ""))
    shown.disable()
    shown.on_test_start(SimpleNamespace(world_size=2), torch.nn.Linear(1, 1))
    assert line.opened == []


def test_lightning_adds_no_bar_of_its_own():
    shown = PassLine("evaluation", 1, "tokens", lambda: Reached(0, ""))
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[shown])
    assert trainer.progress_bar_callback is shown
