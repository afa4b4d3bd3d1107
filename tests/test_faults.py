"""Studies that meet a fault: they end in the right result or in an error that says what is wrong."""

import json
import os
import re
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir

from changed_lms import broken, changed_lm
from fake_results import fake_result
from full_disks import no_space, small_disk
from sae_nfm import config
from sae_nfm.__main__ import CONFIG_DIR
from sae_nfm.config import register
from sae_nfm.launch.reported import report
from sae_nfm.recipes.activations import check_model
from sae_nfm.store.company import ALONE
from sae_nfm.store.store import Store
from sae_nfm.training.checkpoints import BEFORE, LAST
from sae_nfm.training.weights import WEIGHTS
from tiny_studies import Suite, wait_until

LONG = ("train_tokens=409600", "nfm_train_tokens=8192", "checkpoint_every=50")
"""A training of 400 steps, which takes its time."""


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("weight", "value", "named"),
    [
        ("transformer.h.0.mlp.c_fc.bias", torch.nan, "its activations at blocks.1.hook_resid_post hold"),
        ("transformer.h.4.mlp.c_fc.bias", torch.nan, "its logits, after activations"),
        ("transformer.ln_f.bias", torch.inf, "its logits, after activations"),
    ],
    ids=["NaN before the site", "NaN after it", "infinite logits"],
)
def test_a_model_that_gives_nan_is_known_by_one_block(tmp_path, corpus_file, weight, value, named):
    folder = changed_lm(tmp_path, broken(weight, value))
    settings = [*Suite(tmp_path, corpus_file).settings, "lm=local", f"lm.path={folder}"]
    register()
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        activations = config.activations(compose("study", settings), Store(tmp_path / "artifacts"), "cpu")
    with pytest.raises(ValueError, match=named) as error:
        check_model(activations)
    assert f"lm.path={folder}" in str(error.value)
    assert f"because its weight {weight} is not finite" in str(error.value)


def test_a_model_whose_layers_read_the_tokens_is_refused(tmp_path, corpus_file):
    """As those with embeddings of their own in every layer: cut at the site, nothing would tell them."""
    settings = Suite(tmp_path, corpus_file).settings
    register()
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        activations = config.activations(compose("study", settings), Store(tmp_path / "artifacts"), "cpu")
    check_model(activations)
    model, seen = activations.lm.model, {}
    model.register_forward_pre_hook(lambda module, args: seen.update(tokens=args[0]))

    def add(module, args, output):
        of_tokens = 0.1 * model.get_input_embeddings()(seen["tokens"])
        return (output[0] + of_tokens, *output[1:]) if isinstance(output, tuple) else output + of_tokens

    activations.lm.layers[-1].register_forward_hook(add)
    with pytest.raises(
        ValueError, match=r"lm\.path=.*run on from blocks\.1\.hook_resid_post, GPT2LMHeadModel"
    ):
        check_model(activations)


def test_a_study_of_a_model_that_gives_nan_trains_nothing(tmp_path, corpus_file):
    suite = Suite(tmp_path, corpus_file)
    folder = changed_lm(tmp_path, broken("transformer.h.4.mlp.c_fc.bias", torch.nan))
    status, printed = suite.run("lm=local", f"lm.path={folder}")
    assert status == 1
    assert f"error: lm.path={folder}: its logits" in printed
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == ["tokens"]


def test_an_sae_that_training_made_only_worse_says_so_in_the_result(tmp_path, corpus_file):
    suite = Suite(tmp_path, corpus_file)
    status, printed = suite.run("sae_optimizer.lr=1e6", "hydra.run.dir=study")
    assert status == 0, printed
    result = suite.result("study")
    assert result["sae"]["explained_variance"] > 0
    assert any(warning.startswith("sae: training made it only worse") for warning in result["warnings"])


@pytest.fixture(scope="module")
def suite(tmp_path_factory, corpus_file):
    return Suite(tmp_path_factory.mktemp("studies"), corpus_file)


@pytest.fixture(scope="module")
def whole(suite):
    """A study that met no fault; its artifacts are in `whole/artifacts`."""
    return finished(suite, "whole")


def finished(suite, name, *overrides):
    """Run the long study to its end; what it found."""
    status, printed = suite.run(*LONG, *overrides, f"artifacts={name}/artifacts", f"hydra.run.dir={name}")
    assert status == 0, printed
    found = suite.result(name)
    return {part: found[part] for part in ("sae", "nfm", "conditions", "ratios", "tests")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number", "damaged", "overrides"),
    [
        ("killed", signal.SIGKILL, [], ()),
        ("killed_and_flipped", signal.SIGKILL, [LAST], ()),
        ("killed_and_lost", signal.SIGKILL, [LAST, BEFORE], ()),
        ("terminated", signal.SIGTERM, [], ()),
        ("two_killed_and_flipped", signal.SIGKILL, [LAST], ("trainer=ddp_cpu",)),
    ],
)
def test_a_study_that_is_cut_off_finds_what_a_whole_one_does(suite, whole, name, number, damaged, overrides):
    expected = finished(suite, f"{name}_whole", *overrides) if overrides else whole
    study = suite.start(*LONG, *overrides, f"artifacts={name}/artifacts", f"hydra.run.dir={name}")
    try:
        checkpoints = suite.folder / name / "artifacts" / "sae"
        (before,) = wait_until(lambda: list(checkpoints.glob(f"*.partial/checkpoints/{BEFORE}")))
        study.send_signal(number)
        study.wait(60)
    finally:
        study.kill()
    wait_until(lambda: not suite.processes(), 30)
    assert not (suite.folder / name / "result.json").exists()
    for checkpoint in damaged:
        flip_a_bit(before.with_name(checkpoint))
    assert finished(suite, name, *overrides) == expected
    log = (suite.folder / name / "study.log").read_text()
    assert [checkpoint for checkpoint in (LAST, BEFORE) if f"{checkpoint} is damaged" in log] == damaged
    assert ("going on from" in log) == (damaged != [LAST, BEFORE])
    assert not list((suite.folder / name / "artifacts").rglob("*.lock"))


@pytest.mark.slow
def test_a_study_whose_disk_was_full_goes_on_when_there_is_room(suite, whole):
    with small_disk(suite.folder / "small", 600) as remount:
        status, printed = suite.run(*LONG, "artifacts=small/artifacts", "hydra.run.dir=small_study")
        assert status == 1
        assert re.search(r"error: artifacts=\S+: the checkpoint of step \d+ cannot be written ", printed)
        remount("size=64m")
        shutil.copytree(suite.folder / "small", suite.folder / "roomy")
    assert finished(suite, "roomy") == whole
    assert "going on from" in (suite.folder / "roomy" / "study.log").read_text()


@pytest.mark.slow
def test_a_study_reads_a_store_that_is_read_only(suite, whole):
    with small_disk(suite.folder / "sealed", 64_000) as remount:
        shutil.copytree(suite.folder / "whole" / "artifacts", suite.folder / "sealed" / "artifacts")
        remount("ro")
        status, printed = suite.run(*LONG, "artifacts=sealed/artifacts", "hydra.run.dir=of_sealed")
        assert status == 0, printed
        assert suite.result("of_sealed")["conditions"] == whole["conditions"]
        status, printed = suite.run("seed=1", "artifacts=sealed/artifacts")
    assert status == 1
    assert "is not there and cannot be made ([Errno 30] Read-only file system" in printed


@pytest.mark.slow
def test_a_flipped_bit_in_an_artifact_is_named(suite, whole):
    shutil.copytree(suite.folder / "whole" / "artifacts", suite.folder / "flipped")
    (weights,) = (suite.folder / "flipped" / "sae").glob(f"*/{WEIGHTS}")
    flip_a_bit(weights)
    status, printed = suite.run(*LONG, "artifacts=flipped")
    assert status == 1
    assert f"{os.path.relpath(weights, suite.folder)} is missing or differs from what was written" in printed


def test_a_report_that_finds_no_room_does_not_cost_the_result(tmp_path, monkeypatch, caplog):
    told = []
    monkeypatch.setattr(
        "sae_nfm.launch.reported.write_report", lambda found, folder: no_space(tmp_path / "report.html")
    )
    report(found := fake_result(), tmp_path, SimpleNamespace(result=told.append), ALONE)
    assert (
        json.loads((tmp_path / "result.json").read_text())["conditions"].keys() == found["conditions"].keys()
    )
    assert told == [found]
    assert "No space left on device" in caplog.text
