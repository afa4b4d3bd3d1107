"""How a command ends: mistakes by key, value and what is allowed, bugs with their traceback kept."""

import logging

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from sae_nfm import config
from sae_nfm.__main__ import CONFIG_DIR
from sae_nfm.data.corpora import TextCorpus
from sae_nfm.launch.errors import NonFinite, errors_of_a_study, explained, told_briefly
from sae_nfm.store.store import Store
from tiny_studies import Suite


@pytest.fixture
def brief(monkeypatch):
    """As in a study that was started from a terminal."""
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    for name in ("HYDRA_FULL_ERROR", "SAE_NFM_BRIEF_ERRORS"):
        monkeypatch.setenv(name, "1")


def last_words(error):
    """What a study prints that ends with an error."""
    with pytest.raises(SystemExit) as end, errors_of_a_study():
        raise error
    return str(end.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["ablation=linear"], ["ablation=linear", "bias_only", "shared_k", "did you mean linear_only?"]),
        (["lyer=2", "seed=1"], ["lyer=2", "'lyer'", "did you mean layer?", "train_tokens"]),
        (["seed=1", "sae.d_sea=9"], ["sae.d_sea=9", "did you mean d_sae?", "b_dec_init"]),
        (["ablatoin=none"], ["ablatoin=none", "did you mean ablation?"]),
        (
            ["corpus.separator=<|endoftext|>"],
            ["corpus.separator=<|endoftext|>", """'corpus.separator="<|endoftext|>"'"""],
        ),
        (['corpus.separator=<"|'], ["""'corpus.separator="<\\"|"'"""]),
    ],
)
def test_what_does_not_compose_is_answered_with_what_does(overrides, words):
    config.register()
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"), pytest.raises(HydraException) as error:
        compose("study", overrides=overrides)
    told = str(explained(error.value, CONFIG_DIR, overrides))
    assert [word for word in words if word not in told] == []


def test_a_message_that_hides_its_cause_is_the_one_that_is_told(tmp_path, brief):
    def latin(folder):
        TextCorpus(str(path), None, "file", "x").documents().__next__()

    path = tmp_path / "latin.txt"
    path.write_bytes("é".encode("latin-1"))
    store = Store(tmp_path)
    with pytest.raises(SystemExit) as end, errors_of_a_study():
        store.fetch("tokens", {}, latin)
    assert f"corpus.path={path}: {path} is not UTF-8 text" in str(end.value)

    folder = store.fetch("sae", {}, lambda folder: None)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(SystemExit) as end, errors_of_a_study():
        store.fetch("sae", {}, lambda folder: None)
    assert f"error: {folder / 'manifest.json'} is no manifest" in str(end.value)


def test_the_first_rank_speaks_for_all_of_a_setting_and_each_for_itself_of_a_loss(brief, monkeypatch):
    wrong = config.NotAllowed("batch_tokens", 3, "multiples of the 2 processes")
    assert last_words(wrong).startswith("error: batch_tokens=3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert last_words(wrong) == "1"
    assert last_words(NonFinite("the loss is nan")) == "error: the loss is nan"


def test_without_a_log_file_a_bug_is_raised(brief, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with pytest.raises(KeyError), errors_of_a_study():
        raise KeyError("k")


def test_hydra_full_error_of_the_users_shows_all(monkeypatch):
    monkeypatch.delenv("SAE_NFM_BRIEF_ERRORS", raising=False)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    def study():
        with errors_of_a_study():
            raise config.NotAllowed("sae.k", 0, "more")

    with pytest.raises(config.NotAllowed):
        told_briefly(study, CONFIG_DIR)()


def test_a_bug_keeps_its_traceback_in_the_log_and_a_mistake_has_none(tmp_path, corpus_file):
    suite = Suite(tmp_path, corpus_file)
    status, printed = suite.run("objectives.reconstruction._target_=faults.HasABug", "hydra.run.dir=bug")
    assert status == 1
    assert "Traceback" not in printed
    assert "Error executing" not in printed
    assert "error: ValueError: not enough values to unpack" in printed
    assert str(tmp_path / "bug" / "study.log") in printed.splitlines()[-1]
    log = (tmp_path / "bug" / "study.log").read_text()
    assert "Traceback" in log
    assert "first, second = args[:1]" in log

    status, printed = suite.run("nfm_optimizer.lr=-1", "hydra.run.dir=mistake")
    assert status == 1
    assert printed.startswith("error: nfm_optimizer.lr=-1")
    assert len(printed.splitlines()) == 1
    assert "Traceback" not in (tmp_path / "mistake" / "study.log").read_text()
