"""Studies that say which pairs of latents their gain is due to, as a user runs them."""

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import jsonschema
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from sae_nfm import config
from sae_nfm.launch.attribution import _settings
from sae_nfm.launch.composed import composed
from sae_nfm.recipes.curriculum import course
from sae_nfm.settings.values import NotAllowed
from tiny_studies import Suite, wait_until

DOCS = Path(__file__).parents[1] / "docs"
NFM = ("sae.k=8", "nfm_train_tokens=20480", "nfm.d_embed=16", "eval_tokens=900")
PAIRS = (*NFM, "attribution=pairs", "attribution.nodes=4", "attribution.named=4", "attribution.harmful=2",
         "attribution.batch_size=8")  # fmt: skip
FORMS = [
    pytest.param(("order 2", ()), id="order 2"),
    pytest.param(("hidden", ("nfm.mlp=true",)), id="hidden"),
    pytest.param(("order 3", ("nfm.order=3",)), id="order 3", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def suite(tmp_path_factory, corpus_file):
    return Suite(tmp_path_factory.mktemp("attributed"), corpus_file)


def ran(suite, name, *overrides):
    status, printed = suite.run(*overrides, f"hydra.run.dir={name}")
    assert status == 0, printed
    return figures(suite, name)


def figures(suite, name):
    return json.loads((suite.folder / name / "attribution.json").read_text())


def numbers(value, name=""):
    """Every number by where it stands, but for seconds."""
    if isinstance(value, dict):
        value = {key: item for key, item in value.items() if key != "seconds"}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if isinstance(value, int | float):
        return {name: value}
    return {key: number for k, item in items for key, number in numbers(item, f"{name}/{k}").items()}


@pytest.fixture(scope="module", params=FORMS)
def form(request, suite):
    name, overrides = request.param
    return name, ran(suite, name, *PAIRS, *overrides, "attribution=features", "attribution.nodes=8")


def test_what_parts_take_off_adds_up(form):
    name, found = form
    for path in ("interactions", "linear", "error"):
        assert abs(found["completeness"][path]["gap"]) < (0.02 if name == "hidden" else 1e-3)
    shares = found["error"]
    assert sum(part["share"]["value"] for part in shares.values()) == pytest.approx(1, abs=1e-3)
    assert ("triples" in found["made_of"]) == (name == "order 3")


def test_the_change_of_the_kl_is_that_of_the_evaluation(suite, form):
    name, found = form
    result = suite.result(name)
    assert result["attribution"]["gain"] == found["gain"]
    if found["left_out_blocks"] == 0:
        for condition in ("sae", "sae_linear", "sae_nfm"):
            mean = result["conditions"][condition]["kl"]["mean"]
            assert found["kl"][condition]["value"] == pytest.approx(mean, rel=1e-4)


def test_the_figures_are_as_documented(suite, form):
    """By JSON Schema, with no key beside those that it names."""
    schema = json.loads((DOCS / "schemas" / "attribution.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(form[1], schema)


def test_every_pair_is_in_the_table_and_adds_up(suite, form):
    name, found = form
    table = pq.read_table(suite.folder / name / "attribution" / "pairs.parquet").to_pydict()
    assert all(i < j for i, j in zip(table["i"], table["j"], strict=True))
    total = math.fsum(table["taken_off_choosing"]) + math.fsum(table["taken_off_verifying"])
    tokens = sum(found["positions"].values())
    assert total / tokens == pytest.approx(found["made_of"]["pairs"]["value"]["value"], rel=1e-5, abs=1e-9)


def test_named_pairs_have_contexts_and_a_page(suite, form):
    name, found = form
    words = json.loads((suite.folder / name / "attribution" / "contexts.json").read_text())
    assert [pair["latents"] for pair in words["pairs"]] == [
        pair["latents"] for pair in found["named"] + found["harmful"]
    ]
    for pair in words["pairs"]:
        for context in pair["contexts"]["most"]:
            assert len(context["tokens"]) == len(context["taken_off"])
            assert context["product"][context["peak"]] > 0
    page = (suite.folder / name / "features.html").read_text()
    for pair in found["named"]:
        assert f"pair-{pair['latents'][0]}-{pair['latents'][1]}" in page
    assert "features.html" in (suite.folder / name / "report.html").read_text()


@pytest.fixture(scope="module")
def alone(suite):
    return ran(suite, "alone", *PAIRS)


def of_an_earlier_version(settings):
    """Take settings away that there were not always."""
    cfg = OmegaConf.load(settings)
    for key in ("callbacks", "profile", "matmul_precision"):
        del cfg[key]
    OmegaConf.save(cfg, settings)


def test_a_finished_study_is_attributed_by_a_command(suite, alone):
    status, printed = suite.run(*NFM, "hydra.run.dir=finished")
    assert status == 0, printed
    assert "attribution" not in suite.result("finished")
    of_an_earlier_version(suite.folder / "finished" / "config.yaml")
    given = [override for override in PAIRS if override.startswith("attribution")]
    done = subprocess.run(
        [sys.executable, "-m", "sae_nfm.attribute", "finished", *given],
        cwd=suite.folder, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert numbers(figures(suite, "finished")) == pytest.approx(numbers(alone), rel=1e-9)
    assert suite.result("finished")["attribution"] == suite.result("alone")["attribution"] | {
        "seconds": suite.result("finished")["attribution"]["seconds"]
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "RUN"),
        (["alone", "sae.d_sae=5"], "sae.d_sae"),
        (["alone", "attribution.nodes=0"], "attribution.nodes"),
        (["alone", "attribution=all"], "attribution=all"),
    ],
)
def test_what_cannot_be_attributed_is_told_in_a_line(suite, alone, arguments, said):
    status, printed = suite.forked("sae_nfm.attribute", *arguments)
    assert status == 1
    assert printed.splitlines()[-1].startswith("error: ")
    assert said in printed


def test_a_study_is_attributed_elsewhere_as_it_was_trained(tmp_path):
    def learned(cfg):
        return [step.learning and step.learning.settings for step in course(cfg)]

    config.register()
    given = ("trainer.precision=bf16-mixed", "+trainer.deterministic=true")
    study = config.check(composed(given)[0])
    OmegaConf.save(study, tmp_path / "config.yaml")
    elsewhere = config.check(_settings(tmp_path, ["trainer=ddp_cpu", "trainer.precision=bf16-mixed"]))
    assert (elsewhere.trainer.accelerator, elsewhere.trainer.strategy) == ("cpu", "ddp")
    assert learned(elsewhere) == learned(study)
    for how, own in (
        ("precision=32-true", "bf16-mixed"),
        ("deterministic=false", "True"),
        ("benchmark=true", "none"),
    ):
        said = f"trainer.{how}: what the study trained would be trained anew; allowed are its own, {own}"
        with pytest.raises(NotAllowed, match=said):
            _settings(tmp_path, ["trainer=cpu", f"++trainer.{how}"])


@pytest.mark.parametrize("overrides", [("nfm=poly",), ("ablation=linear_only",)], ids=lambda o: o[0])
def test_without_sums_over_pairs_there_is_nothing_to_attribute(suite, overrides):
    status, printed = suite.run(*overrides, "attribution=pairs", "hydra.run.dir=refused")
    assert status == 1
    assert "allowed are NFMs with interactions" in printed


@pytest.mark.slow
def test_two_processes_find_what_one_finds(suite, alone):
    together = ran(suite, "two", *PAIRS, "trainer=ddp_cpu")
    assert numbers(together) == pytest.approx(numbers(alone), rel=1e-5, abs=1e-7)


def test_an_attribution_that_is_killed_goes_on(suite, alone):
    often = (*PAIRS, "attribution.keep_every=1", "hydra.run.dir=killed")
    study = suite.start(*often)
    kept = suite.folder / "killed" / "attribution" / "unfinished" / "verifying.rank-0.pt"
    wait_until(kept.exists)
    study.send_signal(signal.SIGKILL)
    study.wait()
    assert not (suite.folder / "killed" / "attribution.json").exists()
    status, printed = suite.run(*often)
    assert status == 0, printed
    assert "going on from" in printed
    assert not kept.parent.exists()
    found, expected = figures(suite, "killed"), dict(alone)
    found["settings"].pop("keep_every")
    expected["settings"] = {k: v for k, v in alone["settings"].items() if k != "keep_every"}
    assert numbers(found) == pytest.approx(numbers(expected), rel=1e-12)


def test_an_nfm_is_trained_without_the_pairs_that_took_most_off(suite, alone):
    pairs = suite.folder / "alone" / "attribution" / "pairs.parquet"
    status, printed = suite.run(
        *NFM, "ablation=pairs", f"nfm.pairs={pairs}", "nfm.share=0.2", "hydra.run.dir=without"
    )
    assert status == 0, printed
    assert suite.result("without")["conditions"].keys() == suite.result("alone")["conditions"].keys()
    status, printed = suite.run(
        *NFM, "ablation=pairs", "nfm.pairs=nothing", "nfm.share=0.2", "hydra.run.dir=refused"
    )
    assert status == 1
    assert "nfm.pairs=nothing" in printed
