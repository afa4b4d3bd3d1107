"""What a user adds is one file and one YAML each, and goes through the whole study like our own."""

from pathlib import Path

import numpy as np
import pytest

from sae_nfm.export import export
from sae_nfm.interop.loading import load
from tiny_studies import Suite
from toys.toy_family import ShrinkingSAE

TOYS = Path(__file__).parent / "toys"
CONF = f"hydra.searchpath=[file://{TOYS / 'conf'}]"


@pytest.fixture(scope="module")
def suite(tmp_path_factory, corpus_file):
    suite = Suite(tmp_path_factory.mktemp("toys"), corpus_file)
    suite.settings = [
        setting for setting in suite.settings if not setting.startswith(("sae.", "eval", "layer"))
    ]
    return suite


@pytest.fixture(scope="module")
def result(suite):
    """A study of a family, an objective, a control and a baseline of the user's own."""
    choices = ("sae=toy", "objectives=[reconstruction,toy]", "objective=toy", "evaluation=toy")
    status, printed = suite.run(CONF, *choices, "layer=1", "eval_tokens=700", "hydra.run.dir=toy")
    assert status == 0, printed
    return suite.result("toy")


def test_a_family_is_at_most_sixty_lines():
    assert len((TOYS / "toy_family.py").read_text().splitlines()) <= 60


def test_a_family_goes_through_training_and_evaluation(result):
    sae = result["sae"]
    assert (sae["family"], sae["d_sae"], "k" in sae) == ("toy_family", 64, False)
    assert 0 < sae["explained_variance"] < 1
    assert sae["train_tokens"] == 8192
    assert {"sae", "sae_linear", "sae_nfm", "eps(sae)"} <= result["conditions"].keys()


def test_a_control_and_a_baseline_are_conditions_among_others(result):
    conditions = result["conditions"]
    assert conditions["from_l0"]["role"] == "control"
    assert conditions["from_l0"]["mse"] < conditions["sae"]["mse"]
    mirrored = conditions["mirrored(sae)"]
    assert mirrored["mse"] == pytest.approx(conditions["sae"]["mse"], rel=1e-5)
    assert mirrored["baseline"] == "mirrored"


def test_a_family_is_exported_and_found_again(suite, result, tmp_path):
    export(str(suite.folder / "toy"), "sae_nfm", tmp_path / "out")
    found = load(tmp_path / "out")
    assert type(found.sae) is ShrinkingSAE
    assert found.sae.threshold == 0.5
    assert found.claims.layer == 1


def test_a_format_is_read_and_used(suite):
    rows = np.random.default_rng(0).standard_normal((96, 128))
    np.savetxt(suite.folder / "rows.txt", rows / np.linalg.norm(rows, axis=1, keepdims=True))
    overrides = ("sae=toy_format", "sae.path=rows.txt", "nfm=linear", "eval_tokens=700")
    status, printed = suite.run(CONF, *overrides, "evaluation.baselines=[eps]", "hydra.run.dir=format")
    assert status == 0, printed
    found = suite.result("format")
    assert (found["sae"]["d_sae"], found["site"]) == (96, {"layer": 1, "hook": "resid_post"})
    assert found["artifacts"]["sae"]["kind"] == "published"
