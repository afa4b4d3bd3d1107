"""`plan=true`: what it lists is what the study then makes, and it makes nothing itself."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning import Callback
from transformers import LlamaConfig

from random_lms import folder_of
from sae_nfm.data.activations import ActivationStream
from sae_nfm.lm.load import is_config_alone
from sae_nfm.lm.model import LanguageModel
from sae_nfm.lm.site import Site
from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.least_squares import NormalEquations
from sae_nfm.models.normalizer import Normalizer
from sae_nfm.models.residuals.linear import DecoderRefit
from sae_nfm.models.saes.topk import TopKSAE
from sae_nfm.planning import costs, solving, timing
from sae_nfm.planning import plan as planning
from sae_nfm.planning.costs import Memory, Model, operations, resident_bytes
from sae_nfm.planning.plan import Line, Plan
from sae_nfm.planning.timing import Speeds
from sae_nfm.planning.workshop import Planned
from sae_nfm.recipes.recipe import Demand, size_of
from sae_nfm.settings.schema import ASSETS
from sae_nfm.settings.values import NotAllowed
from sae_nfm.training.run import CHECKPOINTS
from small_training import Bench
from tiny_studies import Suite

STUDY = ("evaluation.baselines=[eps,cov]", "evaluation.covariance_tokens=2000", "evaluation.bank_tokens=300")


def planned_by(suite, *overrides):
    status, printed = suite.run(*STUDY, *overrides, "plan=true", "hydra.run.dir=plan")
    assert status == 0, printed
    return json.loads((suite.folder / "plan" / "plan.json").read_text()), printed


def size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("activations=cached",),
        ("stages=[sae,nfm_linear,nfm,finetune]", "stage.finetune.tokens=4096"),
        ("attribution=pairs", "attribution.tokens=700", "nfm_train_tokens=8192"),
        pytest.param(
            (
                *("experiment=planted", "plant.num_tuples=2", "nfm_train_tokens=8192", "nfm.d_embed=8"),
                *("nfm_objective=kl", "tuning_tokens=8192"),
            ),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["streamed", "cached", "tuned", "attributed", "planted"],
)
def test_what_it_lists_is_what_is_made(tmp_path, corpus_file, overrides):
    suite = Suite(tmp_path, corpus_file)
    plan, printed = planned_by(suite, *overrides)
    store = tmp_path / "artifacts"
    assert [path.name for path in store.iterdir()] == ["tokens"]
    before = size(store)
    status, said = suite.run(*STUDY, *overrides, "hydra.run.dir=study")
    assert status == 0, said
    made = {
        (kind.name, folder.name)
        for kind in store.iterdir()
        for folder in kind.iterdir()
        if folder.is_dir() and kind.name != "tokens"
    }
    assert {(each["kind"], each["fingerprint"]) for each in plan["artifacts"].values()} == made
    assert sum(plan["disk"].values()) == pytest.approx(size(store) - before, rel=0.25)  # of a tiny study
    result = suite.result("study")
    assert plan["evaluation"]["positions"] == result["positions"]
    assert plan["evaluation"]["measurements"] == result["measurements"]
    assert not any(each["there"] for each in plan["artifacts"].values())
    again, _ = planned_by(suite, *overrides)
    assert all(each["there"] for each in again["artifacts"].values())
    assert again["disk"] == {}
    assert "memory: " in printed
    assert not (tmp_path / "plan" / "result.json").exists()


def test_a_model_without_weights_is_planned_from_its_configuration(tmp_path, corpus_file):
    suite, folder = Suite(tmp_path, corpus_file), tmp_path / "lm"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder_of("llama") / name, folder / name)
    here = planned_by(suite, f"lm.path={folder_of('llama')}")[0]
    elsewhere, printed = planned_by(suite, f"lm.path={folder}")
    assert elsewhere["disk"] == here["disk"]
    assert elsewhere["evaluation"]["operations"] == here["evaluation"]["operations"]
    costs = [
        [(each["tokens"], each["operations"]) for each in plan["artifacts"].values()]
        for plan in (here, elsewhere)
    ]
    assert costs[0] == costs[1]
    assert here["operations_per_s"] is None
    speed = elsewhere["operations_per_s"]
    sae = elsewhere["artifacts"]["sae"]
    assert sae["seconds"] == pytest.approx(sae["operations"] / speed)
    assert "the model's folder holds no weights" in printed
    with pytest.raises(NotAllowed, match=rf"path={folder}: cannot be loaded"):
        LanguageModel(str(folder), "float32")


def test_a_model_that_cannot_be_planned_without_its_weights_is_refused(tmp_path):
    """GPT-2's queries, keys and values are one weight, which TransformerLens splits."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ASSETS / "docs_lm" / name, tmp_path / name)
    with pytest.raises(
        NotAllowed, match=rf"path={tmp_path}: cannot be loaded \(TransformerLens cannot split"
    ):
        LanguageModel(str(tmp_path), "float32", blank=True)


def test_a_model_of_shapes_takes_no_memory_but_says_what_it_would(tmp_path):
    """Half of Llama-3-70B."""
    config = LlamaConfig(
        hidden_size=8192, num_hidden_layers=40, num_attention_heads=64, num_key_value_heads=8,
        intermediate_size=28672, vocab_size=128256,
    )  # fmt: skip
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ASSETS / "docs_lm" / name, tmp_path / name)
    assert is_config_alone(str(tmp_path))
    before = resident_bytes(torch.device("cpu"))
    lm = LanguageModel(str(tmp_path), "bfloat16", blank=True).to("cpu")
    assert resident_bytes(torch.device("cpu")) - before < 1e9
    layer = 8192 * (2 * 8192 + 2 * 1024 + 3 * 28672 + 2)
    numbers = 40 * layer + 2 * 128256 * 8192 + 8192
    model = Model.of(lm, 128)
    assert model.parameters == 2 * numbers
    attention = 2 * 2 * 8192 * 64
    assert model.prefix(19) == 20 * (2 * layer + attention)
    assert model.suffix(19) == 20 * (2 * layer + attention) + 2 * 8192 * 128256


NAMES = {"sae": frozenset({"sae"}), "surroundings": frozenset()}


def at(cache=None, kept=None, world_size=1):
    """Activations of a tiny site, as far as a plan looks at them."""
    return SimpleNamespace(
        cache=cache, kept=kept, site=SimpleNamespace(layer=0),
        lm=SimpleNamespace(d_model=8, dtype="float32"),
        store=SimpleNamespace(root=Path("nowhere"), ranks=SimpleNamespace(world_size=world_size)),
    )  # fmt: skip


def wanted(name, tokens=100, there=False):
    """Something that is trained, or only measured."""
    return Planned(name, name, "0", there, Demand(tokens, 1, parts=NAMES[name]))


def test_activations_that_are_kept_are_computed_once():
    speeds, model = Speeds(prefix=2.0, suffix=0.0, steps={"sae": 0.5}, solving={}), Model([3.0, 4.0], 0.0, 0)
    kept = SimpleNamespace(num_tokens=70, spec=lambda: {"of": "a site"})
    cached = at(cache=SimpleNamespace(dtype=torch.bfloat16), kept=kept)
    sae, surroundings = wanted("sae"), wanted("surroundings")
    (written,) = costs.kept_activations([surroundings, sae], cached)
    assert written.demand.saved == 70 * 8 * 2
    assert [speeds.of(each, cached) for each in (written, sae, surroundings)] == [140, 50, 200]
    assert [operations(each, model, cached) for each in (written, sae, surroundings)] == [210, 0, 300]
    assert [speeds.of(each, at()) for each in (sae, surroundings)] == [250, 200]
    assert costs.kept_activations([surroundings, wanted("sae", there=True)], cached) == []
    assert costs.kept_activations([sae], at()) == []


def test_processes_share_what_is_trained_and_nothing_else(monkeypatch):
    speeds, together = Speeds(prefix=2.0, suffix=0.0, steps={}, solving={}), at(world_size=4)
    assert [speeds.of(wanted(name), together) for name in ("sae", "surroundings")] == [50, 200]
    monkeypatch.setattr(costs, "SAMPLE_TOKENS", 10)
    autoencoder = Autoencoder(Normalizer(8), TopKSAE(8, 32, 4))
    read = []
    for world_size in (1, 4):
        activations = at(world_size=world_size)
        activations.cfg = SimpleNamespace(pool_tokens=4000, batch_tokens=100)
        activations.lm.device, activations.lm.layers = torch.device("cpu"), [None] * 5
        demands = [
            Demand(1000, 0, autoencoder, frozenset({"sae"})),
            Demand(1000, 0, autoencoder, frozenset({"sae"}), through_model=True),
        ]
        memory = [costs.training_memory(Planned("", "", "", False, each), activations) for each in demands]
        read.append((memory[0].read, memory[1].computing - memory[0].computing))
    assert read[0] == (4 * 4000 * 8 * 4, 8 * 100 * 8 * 4 * 5)
    assert read[1] == tuple(part // 4 for part in read[0])


class ASecondEach:
    """A clock by which each of some calls takes a second."""

    def __init__(self, monkeypatch, *calls):
        self.now = 0.0
        monkeypatch.setattr(timing, "_seconds", self.of)
        for owner, name in calls:
            monkeypatch.setattr(owner, name, self.ticking(getattr(owner, name)))

    def ticking(self, call):
        def tick(*given):
            self.now += 1
            return call(*given)

        return tick

    def of(self, act):
        began = self.now
        act()
        return self.now - began


def test_a_solved_linear_part_takes_the_time_of_its_equations(lm, splits, monkeypatch):
    activations = SimpleNamespace(
        lm=lm, splits=splits, site=Site(1, "resid_post"), cache=None,
        cfg=SimpleNamespace(lm_batch=4, batch_tokens=64, evaluation=SimpleNamespace(batch_size=4)),
        validation=lambda seed: ActivationStream(lm, Site(1, "resid_post"), splits.validation, 4, seed),
        store=SimpleNamespace(ranks=SimpleNamespace(world_size=4)),
    )  # fmt: skip
    autoencoder = Autoencoder(Normalizer(lm.d_model), TopKSAE(lm.d_model, 40, 4))
    solved = Planned("linear", "linear", "0", False, Demand(1280, 0, autoencoder, solved=DecoderRefit()))
    monkeypatch.setattr(timing, "speed_of_products", lambda device, dtype: 100.0)
    ASecondEach(monkeypatch, (NormalEquations, "add"), (Autoencoder, "explain"))
    factored = 6 * 40**2 * (40 / 3 + 2 * lm.d_model) / 100
    speeds = timing.measured([solved], activations)
    assert speeds.of(solved, activations) == pytest.approx(1280 * 2 / 64 + factored)
    monkeypatch.setattr(solving, "_MUCH", 100)
    monkeypatch.setattr(solving, "NormalEquations", None)
    speeds, added = timing.measured([solved], activations), 2 * 40**2 / 100
    assert speeds.of(solved, activations) == pytest.approx(1280 * (1 / 64 + added) + factored)
    model = Model([0.0, 0.0], 0.0, 0)
    encoded = 2 * lm.d_model * 40
    assert operations(solved, model, activations) / 100 == pytest.approx(
        1280 * (encoded / 100 + added) + factored
    )
    speeds = timing.estimated([solved], model, 1, 100.0)
    assert speeds.of(solved, activations) == pytest.approx(operations(solved, model, activations) / 100)


@pytest.mark.parametrize("stage", ["sae", "nfm"])
def test_checkpoints_are_the_most_that_is_on_disk(lm, splits, tmp_path, stage):
    bench, sizes = Bench(lm, splits), []
    task = bench.task(stage, steps=160)

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, *batch):
            if trainer.global_step in (99, 149):
                sizes.append(size(tmp_path / CHECKPOINTS))

    bench.train(task, tmp_path, Watch())
    whole = task.autoencoder
    parts = frozenset({"sae"} if stage == "sae" else {"linear", "interaction"})
    saved = size_of(whole if stage == "sae" else whole.nfm)
    demand = Demand(160 * 64, saved, whole, parts)
    before = Planned("before", "sae", "0", False, Demand(0, 10_000))
    activations = SimpleNamespace(cfg=SimpleNamespace(checkpoint_every=50, batch_tokens=64))
    peak = costs.peak_disk([before, Planned(stage, stage, "1", False, demand)], activations)
    kept = 10_000 + costs._SMALL
    assert peak - kept == pytest.approx(3 * sizes[0], rel=0.15)  # of a tiny one
    there = Planned(stage, stage, "1", True, demand)
    assert costs.peak_disk([before, there], activations) == kept
    activations.cfg.checkpoint_every = 1000
    assert costs.peak_disk([Planned(stage, stage, "1", False, demand)], activations) == saved + costs._SMALL


def plan_of(memory, disk, checkpoints=0):
    line = Line(Planned("sae", "sae", "0", False, Demand(1, 1)), 1.0, 1.0, Memory(0, memory, 0))
    return Plan([line], line, 1, 1, {"sae": disk}, disk + checkpoints, 1000 + memory, "cpu")


def test_what_has_no_room_is_refused_by_name(tmp_path, monkeypatch):
    workshop = SimpleNamespace(
        activations=SimpleNamespace(
            lm=SimpleNamespace(device="cpu"),
            cfg=SimpleNamespace(trainer=SimpleNamespace(accelerator="cpu", num_nodes=1)),
        ),
        store=SimpleNamespace(root=tmp_path / "artifacts"),
    )
    monkeypatch.setattr(planning, "free_bytes", lambda device: 5_000_000_000)
    monkeypatch.setattr(planning.shutil, "disk_usage", lambda path: SimpleNamespace(free=2_000_000_000))
    planning._refuse_what_has_no_room(plan_of(4_000_000_000, 1_000_000_000), workshop, 1000)
    with pytest.raises(NotAllowed, match=r"artifacts=.*: 2\.0 GB are free there; allowed are .* 3\.0 GB"):
        planning._refuse_what_has_no_room(plan_of(0, 3_000_000_000), workshop, 1000)
    with pytest.raises(NotAllowed, match=r"trainer.accelerator=cpu: 5\.0 GB are free on cpu.* 6\.0 GB more"):
        planning._refuse_what_has_no_room(plan_of(6_000_000_000, 0), workshop, 1000)
    with pytest.raises(NotAllowed, match=r"artifacts=.* 3\.0 GB, of which checkpoints take most"):
        planning._refuse_what_has_no_room(plan_of(0, 1_000_000_000, 2_000_000_000), workshop, 1000)
    shared = plan_of(3_000_000_000, 0)._replace(processes=2)
    with pytest.raises(NotAllowed, match=r"trainer.accelerator=cpu: 5\.0 GB are free on cpu.* 6\.0 GB more"):
        planning._refuse_what_has_no_room(shared, workshop, 1000)
