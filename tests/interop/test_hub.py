"""The Hugging Face hub, as its library answers: from a stand-in, and where it cannot be reached."""

import shutil

import huggingface_hub
import pytest
import torch
from test_read import FIXTURES, GEMMA, X

from sae_nfm.interop import hub
from sae_nfm.interop.loading import load
from sae_nfm.settings.values import NotAllowed

NAME = "google/gemma-scope-2b-pt-res"


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A cache with Gemma Scope's file and a sparsify run; remembers what was asked for."""
    root, asked = tmp_path / "snapshots" / "0123", []
    shutil.copytree(FIXTURES / GEMMA, root / "layer_20/width_16k/average_l0_71")
    shutil.copytree(FIXTURES / "sparsify/expansion", root / "run")

    def snapshot_download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(root)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


@pytest.mark.parametrize("file", ["params.npz", ""])
def test_a_folder_or_a_file_of_a_repository(repository, file):
    folder = "layer_20/width_16k/average_l0_71"
    published = load(NAME, f"{folder}/{file}".rstrip("/"))
    torch.testing.assert_close(published.autoencoder(X).sae, load(FIXTURES / GEMMA).autoencoder(X).sae)
    assert published.claims == load(FIXTURES / GEMMA).claims
    ((name, patterns),) = repository
    assert name == NAME
    assert f"{folder}/params.npz" in patterns
    assert all(pattern.startswith(folder) or pattern.endswith("config.json") for pattern in patterns)


def test_settings_above_the_folder_come_too(repository):
    assert load("EleutherAI/sae", "run/layers.3").claims.model == "gpt2"
    assert {"run/config.json", "config.json"} <= set(repository[0][1])


def test_a_folder_that_the_repository_has_not(repository):
    with pytest.raises(NotAllowed, match=f"file=layer_21: allowed are folders and files of {NAME}"):
        load(NAME, "layer_21")


def test_a_hub_that_cannot_be_reached_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(NotAllowed, match="path=no-one/no-such-sae: LocalEntryNotFoundError") as error:
        load("no-one/no-such-sae")
    assert "\n" not in str(error.value)


def test_a_folder_of_the_same_name_comes_first(repository, tmp_path, monkeypatch):
    shutil.copytree(FIXTURES / "sae_lens/topk", tmp_path / "org" / "sae")
    monkeypatch.chdir(tmp_path)
    assert load("org/sae").family == "topk"
    assert not repository


def test_pushing(monkeypatch, tmp_path):
    calls = []

    class Api:
        def create_repo(self, name, exist_ok):
            calls.append((name, exist_ok))

        def upload_folder(self, folder_path, repo_id):
            calls.append((folder_path, repo_id))
            return f"https://huggingface.co/{repo_id}"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert hub.pushed(tmp_path, "me/sae") == "https://huggingface.co/me/sae"
    assert calls == [("me/sae", True), (tmp_path, "me/sae")]
