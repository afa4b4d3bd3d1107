"""Studies whose parts are trained for what the model does, further or together from scratch."""

import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

import sae_nfm
from tiny_studies import Suite, wait_until

BY_KL = ("nfm_objective=kl", "tuning_tokens=20480", "tuning_optimizer.lr=6e-3")
CHANGES = {
    "finetune": ("stages=[sae,nfm_linear,nfm,finetune]", "stage.finetune.tokens=153600"),
    "joint": ("stages=[joint]", "stage.joint.objective=kl", "stage.joint.tokens=153600"),
}
OWN = ("evaluation.reconstructions=[sae,sae_linear,sae_nfm]",)


@pytest.fixture(scope="module")
def suite(tmp_path_factory, corpus_file):
    """A store with what a study of no stage beside the three makes."""
    suite = Suite(tmp_path_factory.mktemp("tuned"), corpus_file)
    ran(suite, "fitted")
    return suite


def ran(suite, name, *overrides):
    status, printed = suite.run(*overrides, f"hydra.run.dir={name}")
    assert status == 0, printed
    return suite.result(name)


def beside(suite, folder):
    """Another suite that starts with a copy of the first one's store."""
    other = Suite(folder, folder / "unused")
    other.settings = suite.settings
    shutil.copytree(suite.folder / "artifacts", folder / "artifacts")
    return other


def kl(result, condition):
    return result["conditions"][condition]["kl"]["mean"]


@pytest.fixture(scope="module")
def tuned(suite):
    return ran(suite, "tuned", *BY_KL)


def test_an_nfm_that_is_trained_for_kl_has_less_of_it(suite, tuned):
    fitted = suite.result("fitted")
    assert kl(tuned, "sae") == kl(fitted, "sae")
    assert kl(tuned, "sae_nfm") < 0.95 * kl(fitted, "sae_nfm")
    assert tuned["validation"]["nfm_for_kl"]["kl"] > 0
    assert tuned["timing"]["nfm_for_kl_tokens_per_s"] > 0


def test_its_beginnings_are_those_of_the_fitted_one(suite, tuned):
    fitted = suite.result("fitted")
    for stage in ("sae", "nfm_linear", "nfm"):
        assert tuned["stages"][stage] == fitted["stages"][stage]
    assert list(tuned["stages"]) == ["sae", "nfm_linear", "nfm", "nfm_for_kl"]
    stage = tuned["stages"]["nfm_for_kl"]
    assert (stage["parts"], stage["objective"]) == (["interaction", "linear"], "kl")
    assert stage["train_tokens"] == 20480
    assert tuned["artifacts"]["sae"] == fitted["artifacts"]["sae"]
    assert tuned["artifacts"]["nfm"]["fingerprint"] == stage["artifact"]


def test_interactions_are_held_against_what_is_linear_and_trained_as_long(tuned):
    roles = {name: entry["role"] for name, entry in tuned["conditions"].items()}
    assert roles["linear_alone"] == "linear_alone"
    assert roles["sae_alone"] == "sae_alone"
    marginal = tuned["marginal_interaction"]
    assert marginal["against"] == "linear_alone"
    difference = kl(tuned, "linear_alone") - kl(tuned, "sae_nfm")
    assert marginal["absolute"]["value"] == pytest.approx(difference)
    assert kl(tuned, "sae_alone") < kl(tuned, "sae")
    assert kl(tuned, "linear_alone") < kl(tuned, "sae")


def test_what_is_fitted_alone_needs_no_such_control(suite):
    fitted = suite.result("fitted")
    assert not {"linear_alone", "sae_alone"} & set(fitted["conditions"])
    assert fitted["marginal_interaction"]["against"] == "sae_linear"


def test_a_run_with_a_tuned_nfm_can_be_loaded(suite, tuned):
    found = sae_nfm.load(suite.folder / "tuned")
    weights = load_file(f"{tuned['artifacts']['nfm']['path']}/weights.safetensors")
    assert torch.equal(found.nfm.W_lin, weights["W_lin"])
    alone = sae_nfm.load(tuned["artifacts"]["nfm"]["path"])
    assert torch.equal(alone.sae.W_dec, found.sae.W_dec)


def test_all_parts_can_be_trained_further_together(suite):
    fitted = suite.result("fitted")
    stages = ("stages=[sae,nfm_linear,nfm,finetune]", "stage.finetune.tokens=20480")
    found = ran(suite, "finetuned", *stages, "tuning_optimizer.lr=6e-3")
    assert kl(found, "sae_nfm") < 0.9 * kl(fitted, "sae_nfm")
    assert found["sae"]["l0"] == fitted["sae"]["l0"] == 4
    assert found["artifacts"]["sae"]["fingerprint"] == found["artifacts"]["nfm"]["fingerprint"]
    loaded = sae_nfm.load(suite.folder / "finetuned")
    parts = loaded.parts("the shape of the array")
    assert parts.interaction.norm() > 0
    nfm_alone = sae_nfm.load(found["artifacts"]["nfm"]["path"])
    assert torch.equal(nfm_alone.sae.W_dec, loaded.sae.W_dec)


def test_what_is_planted_stays_where_the_nfm_is_trained_for_kl(suite):
    small = ("sae.d_sae=64", "nfm.d_embed=8", "nfm_train_tokens=20480")
    found = ran(suite, "planted", "experiment=planted", *small, *BY_KL)
    assert found["planted"]["kind"] == "pairs"
    assert found["marginal_interaction"]["against"] == "linear_alone"
    assert "sae_alone" not in found["conditions"]  # it would move what is planted on
    assert kl(found, "sae_nfm") < kl(found, "sae")
    assert kl(found, "sae_planted") < kl(found, "sae_nfm")
    plant = load_file(f"{found['artifacts']['plant']['path']}/weights.safetensors")
    truth = load_file(f"{found['artifacts']['sae_planted_nfm_for_kl']['path']}/weights.safetensors")
    assert torch.equal(truth["tuples"], plant["tuples"])
    assert set(truth) == {"tuples", "directions", "W_lin", "b"}
    tuned = [found["validation"][name] for name in ("nfm_for_kl", "sae_planted_nfm_for_kl")]
    assert tuned[0]["train_tokens"] == tuned[1]["train_tokens"]
    assert tuned[1]["kl"] < tuned[0]["kl"]


def test_joint_training_and_its_controls(suite):
    judged = "evaluation.reconstructions=[sae,sae_linear,sae_nfm,linear_alone,sae_alone,sequential]"
    found = ran(suite, "joint", "stages=[joint]", "stage.joint.tokens=40960", "nfm.d_embed=16", judged)
    assert found["artifacts"]["sae"]["fingerprint"] == found["artifacts"]["nfm"]["fingerprint"]
    assert found["artifacts"]["sequential_sae"]["fingerprint"] != found["artifacts"]["sae"]["fingerprint"]
    assert list(found["stages"]) == ["joint"]
    assert found["stages"]["joint"]["objective"] == "reconstruction"
    assert {"sae", "sae_nfm", "linear_alone", "sae_alone"} <= found["conditions"].keys()
    assert found["sae"]["train_tokens"] == found["nfm"]["train_tokens"] == 40960
    assert found["conditions"]["sae_nfm"]["mse"] < found["conditions"]["sae"]["mse"]
    assert found["conditions"]["sae_alone"]["mse"] < found["conditions"]["sae"]["mse"]


@pytest.mark.parametrize("family", [pytest.param("batch_topk", marks=pytest.mark.slow), "jumprelu"])
def test_an_sae_of_any_family_is_trained_from_scratch_for_kl(suite, family):
    overrides = ("stages=[e2e]", "nfm=none", f"sae={family}", "l0=4", "train_tokens=81920")
    other = Suite(suite.folder, suite.folder)
    replaced = ("sae.k", "train_tokens", "nfm.")
    other.settings = [each for each in suite.settings if not each.startswith(replaced)]
    found = ran(other, f"e2e_{family}", *overrides, "sae_optimizer.lr=3e-3")
    assert found["stages"]["e2e"]["objective"] == "kl"
    assert found["conditions"]["sae"]["kl"]["mean"] < 3
    assert found["sae"]["l0"] < 12  # it aims at 4, and has had 80 steps


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_what_was_killed_goes_on_bit_by_bit(suite, tmp_path, name):
    """Of two copies of a store, one is trained in without a pause."""
    whole, killed = beside(suite, tmp_path / "whole"), beside(suite, tmp_path / "killed")
    expected = ran(whole, name, *CHANGES[name], *OWN)
    checkpoints = "artifacts/sae/*.partial/checkpoints/last.ckpt"
    study = killed.start(*CHANGES[name], *OWN, "checkpoint_every=50", f"hydra.run.dir={name}")
    try:
        wait_until(lambda: list(killed.folder.glob(checkpoints)))
    finally:
        study.send_signal(signal.SIGKILL)
        study.wait()
    found = ran(killed, name, *CHANGES[name], *OWN, "checkpoint_every=50")
    assert "going on from" in (killed.folder / "printed.log").read_text()
    for path in ("weights.safetensors", "nfm/weights.safetensors"):
        mine, other = (load_file(f"{each['artifacts']['sae']['path']}/{path}") for each in (found, expected))
        assert all(torch.equal(mine[key], other[key]) for key in other)
    assert found["conditions"] == expected["conditions"]


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_two_processes_train_what_one_trains(suite, tmp_path, name):
    """Few steps: differences of rounding grow with every one of Adam's."""
    few = [each.replace("153600", "10240") for each in CHANGES[name]]
    alone, together = beside(suite, tmp_path / "alone"), beside(suite, tmp_path / "together")
    expected = ran(alone, name, *few, *OWN)
    found = ran(together, name, *few, *OWN, "trainer=ddp_cpu")
    assert found["validation"][name]["processes"] == 2
    for condition in ("sae", "sae_linear", "sae_nfm"):
        assert kl(found, condition) == pytest.approx(kl(expected, condition), rel=1e-5)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["nfm_objective=klx"], "nfm_objective=klx: allowed are reconstruction, kl, kl_reconstruction, "),
        (["stages=[nfm]"], "allowed are lists whose first stage makes the SAE"),
        (["stages=[sea]"], "stages=sea: allowed are sae, nfm_linear, nfm, finetune, joint, e2e"),
        (["stages=[sae,finetune]", "stage.finetune.parts=[decoder]"], "stage.finetune.parts"),
        (["nfm_objective=kl", "tuning_tokens=100"], "tuning_tokens=100: allowed are whole numbers from"),
        (
            ["stages=[joint]", "experiment=planted"],
            "the stage joint would train the SAE that it is planted on",
        ),
        (["nfm_objective=downstream", "layer=5"], "layer=5: allowed are layers below 5"),
    ],
)
def test_what_cannot_be_trained_is_told_before_anything_is(suite, overrides, said):
    status, printed = suite.run(*overrides, "hydra.run.dir=refused")
    assert status == 1
    assert said in printed
    assert "Traceback" not in printed
