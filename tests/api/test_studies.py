"""`study`: what it refuses, and that it leaves the caller's process as it was."""

import os
import random

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from lightning import seed_everything

import sae_nfm
from sae_nfm.settings.schema import CONFIG_DIR, register
from sae_nfm.settings.values import NotAllowed


@pytest.fixture
def ran(monkeypatch, tmp_path):
    """What studies are run with, which here do nothing but what changes a process."""
    calls = []

    class Study:
        def __init__(self, cfg, folder, origin):
            self.given = cfg, folder, origin

        def run(self):
            cfg, _, _ = self.given
            seed_everything(cfg.seed, verbose=False)
            os.environ["SAE_NFM_ENDS_WITH"] = "1"
            calls.append(self.given)
            return {"name": cfg.name}

    monkeypatch.setattr("sae_nfm.api.studies.Study", Study)
    monkeypatch.chdir(tmp_path)
    return calls


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["sae.d_sea=9"], "sae.d_sea=9: .* did you mean d_sae"),
        (["ablation=linear"], "ablation=linear: .* did you mean linear_only"),
        (["sweep=layers"], "hydra.mode=MULTIRUN: a sweep is many studies"),
        (["trainer=ddp"], "trainer.devices=.*: this process is one"),
        (["trainer.num_nodes=2"], "trainer.num_nodes=2: this process is one"),
    ],
)
def test_what_is_not_allowed_is_named(ran, overrides, words):
    with pytest.raises(NotAllowed, match=words):
        sae_nfm.study(overrides)
    assert ran == []
    assert os.listdir() == []


def test_a_value_that_is_not_allowed_is_named(tmp_path):
    with pytest.raises(NotAllowed, match=r"sae.k=none: "):
        sae_nfm.study(["sae.k=none"], folder=tmp_path / "run")


def test_what_does_not_compose_is_told_in_hydras_words(ran):
    with pytest.raises(ValueError, match=r"Ambiguous value for argument 'nfm.order=2,3'"):
        sae_nfm.study(["nfm.order=2,3"])


def test_its_folder_and_its_command(ran, tmp_path):
    assert sae_nfm.study(["name=mine", "sae.k=16"], folder="here") == {"name": "mine"}
    sae_nfm.study(["name=mine", "nfm=none"])
    (cfg, folder, origin), (_, dated, other) = ran
    assert (cfg.sae.k, str(folder), origin["command"]) == (
        16,
        "here",
        "sae_nfm.study(['name=mine', 'sae.k=16'])",
    )
    assert (origin["choices"]["nfm"], other["choices"]["nfm"]) == ("full", "none")
    assert dated.parts[0] == "runs"
    assert dated.name.endswith("_mine")
    assert (tmp_path / dated).is_dir()


def test_the_callers_process_is_as_it_was(ran):
    def state():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    register()
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        before, environment, hydra = state(), dict(os.environ), GlobalHydra.instance().hydra
        sae_nfm.study()
        assert len(ran) == 1
        assert state() == before
        assert dict(os.environ) == environment
        assert GlobalHydra.instance().hydra is hydra
        assert compose("study").seed == 0
