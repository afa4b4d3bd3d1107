"""What TensorBoard is given, read back from its files."""

import importlib.util

import pytest

from fake_results import fake_result
from sae_nfm.settings.values import NotAllowed
from sae_nfm.tracking.tensorboard import TensorBoard
from sae_nfm.tracking.wandb_names import summary


def test_curves_and_figures_read_back(tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="the extra `tensorboard` is not installed",
    )

    def scalars(stage):
        read = accumulator.EventAccumulator(str(tmp_path / "logs" / stage))
        read.Reload()
        return {name: [(e.step, e.value) for e in read.Scalars(name)] for name in read.Tags()["scalars"]}

    tracker, result = TensorBoard(tmp_path, {}, {}), fake_result()
    with tracker.stage("sae", tmp_path, 64) as logger:
        logger.log_metrics({"train/loss": 0.5}, 1)
        logger.finalize("success")
    tracker.result(result)
    assert scalars("sae") == {"train/loss": [(1, 0.5)]}
    found = {name: value for name, ((_, value),) in scalars("evaluation").items()}
    assert found == pytest.approx(summary(result), rel=1e-6)


def test_without_the_package_the_study_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NotAllowed, match=r"logger=tensorboard: .*allowed are .*sae-nfm\[tensorboard\]"):
        TensorBoard(tmp_path, {}, {})
