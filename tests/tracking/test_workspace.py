"""The layout of a W&B project shows names that studies send."""

import importlib.util
from pathlib import Path

import pytest

from fake_results import fake_result
from sae_nfm.tracking.wandb_names import summary

SCRIPT = Path(__file__).parents[2] / "scripts" / "wandb_workspace.py"


@pytest.fixture
def layout():
    pytest.importorskip("wandb_workspaces", reason="the extra `workspace` is not installed")
    spec = importlib.util.spec_from_file_location("wandb_workspace", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_figure_is_one_that_a_study_sends(layout):
    sent = summary(fake_result())
    assert {*layout.KL, *layout.GAINS, *layout.MULTIPLES} <= set(sent)


def test_the_layout_is_one_that_wandb_takes(layout):
    view = layout.workspace("me", "sae-nfm")._to_model()
    sections = view.spec.section.panel_bank_config.sections
    shown = {section.name: [panel.view_type for panel in section.panels] for section in sections}
    assert list(shown)[:4] == ["Findings", "Studies", "Validation", "Training"]
    assert shown["Findings"] == ["Bar Chart"] * 3 + ["Scatter Plot"]
    assert set(shown["Training"]) == {"Run History Line Plot"}
    assert view.spec.section.settings.x_axis == "tokens"
