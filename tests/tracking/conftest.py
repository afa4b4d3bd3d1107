"""What the tests of W&B share: a machine of its own, a job's folder, and what keeps track of the job."""

import json
import os

import pytest
import wandb

from fake_results import fake_result
from sae_nfm.tracking.wandb_runs import WandbRuns

CHOICES = {"lm": "docs_lm", "sae": "topk", "nfm": "full", "ablation": "interaction_only"}
CHOICES |= {"experiment": None, "logger": "wandb", "optimizer@sae_optimizer": "adam_sae"}
CONFIG = {
    "layer": 1,
    "hook": "mlp_out",
    "lm_batch": 4,
    "pool_tokens": 8,
    "sae": {"d_sae": 64, "k": 4},
    "nfm": {"order": 2},
}
PLAIN = {"project": "tests", "entity": None, "group": None, "tags": ["mine"], "patience": 60}
PLAIN |= {"offline": False, "weights": False}


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    """A machine where nobody has logged in; nothing is written outside of it."""
    folder = tmp_path_factory.mktemp("home")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("DATA_DIR", "CACHE_DIR", "CONFIG_DIR", "ARTIFACT_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(folder / name.lower()))
    monkeypatch.setenv("NETRC", str(folder / "netrc"))
    yield folder
    wandb.teardown()


@pytest.fixture
def job(tmp_path):
    folder = tmp_path / "my_sweep" / "nfm.order-2"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def tracker():
    """Makes what keeps track of a study in a folder."""

    def make(folder, **settings):
        (folder / "result.json").write_text(json.dumps(fake_result()))  # as a study has it by then
        about = {"choices": CHOICES, "settings": CONFIG, "given": ["lm_batch"]}
        return WandbRuns(folder=folder, **about, **(PLAIN | settings))

    return make


@pytest.fixture
def result():
    return fake_result(baselines=("eps", "cov"))
