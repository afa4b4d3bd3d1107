"""Every file under conf/ composes, and every key of every `_target_` is a parameter of what it names."""

import inspect
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import OmegaConf
from torch import nn

from sae_nfm import config
from sae_nfm.__main__ import CONFIG_DIR
from sae_nfm.settings.values import NotAllowed

PACKAGES = {"optimizer": ["sae_optimizer", "nfm_optimizer", "tuning_optimizer"]}
"""Groups that the study uses under other names than their own."""
ALL_OF_THEM = ("objectives", "stage")
"""Groups of which the study has every file."""
ADDED = {
    "sae": {"d_in"},
    "nfm": {"d_sae", "d_out"},
    "sae_optimizer": {"params"},
    "nfm_optimizer": {"params"},
    "tuning_optimizer": {"params"},
    "stage.finetune.optimizer": {"params"},
    "stage.joint.optimizer": {"params"},
    "stage.e2e.optimizer": {"params"},
    "logger": {"folder", "choices", "settings", "given"},
}
"""What the code gives a target beside its settings."""
HYDRAS_OWN = {"_target_", "_partial_", "_args_", "_convert_", "_recursive_"}

FIXTURES = Path(__file__).parent / "interop" / "fixtures"
PAIRS = Path(tempfile.mkdtemp()) / "pairs.parquet"
pq.write_table(pa.table({"i": [0], "j": [1], "taken_off_choosing": [1.0]}), PAIRS)
GIVEN = {"sae.path": str(FIXTURES / "sae_lens" / "topk"), "nfm.pairs": str(PAIRS), "nfm.share": 1.0}
"""What only a user can give, where not any text will do."""


@cache
def options():
    """The overrides that choose each file under conf/."""
    found = []
    for path in sorted(Path(CONFIG_DIR).rglob("*.yaml")):
        group = path.parent.relative_to(CONFIG_DIR).as_posix()
        if group not in (".", *ALL_OF_THEM):
            keys = [f"{group}@{package}" for package in PACKAGES[group]] if group in PACKAGES else [group]
            found += [f"{key}={path.stem}" for key in keys]
    return found


@pytest.fixture(scope="module", autouse=True)
def hydra():
    config.register()
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        yield


@pytest.fixture(scope="module")
def default(hydra):
    return compose("study")


def composed(*overrides):
    """The study's settings, with the values that a user has to give filled in."""
    cfg = compose("study", overrides=list(overrides))
    for key in OmegaConf.missing_keys(cfg):
        OmegaConf.update(cfg, key, GIVEN.get(key, "given"))
    return cfg


def hydras_own(*overrides):
    """Hydra's settings of the same."""
    return compose("study", overrides=list(overrides), return_hydra_config=True).hydra


def misfits(node, path=""):
    """What is wrong with the `_target_` nodes at and below a node of plain containers."""
    if isinstance(node, list):
        return [found for i, item in enumerate(node) for found in misfits(item, f"{path}.{i}")]
    if not isinstance(node, dict):
        return []
    found = [text for key, item in node.items() for text in misfits(item, f"{path}.{key}".lstrip("."))]
    if "_target_" not in node:
        return found
    name, added = node["_target_"], ADDED.get(path, set())
    parameters = parameters_of(get_object(name))
    given = set(node) - HYDRAS_OWN
    needed = {key for key, parameter in parameters.items() if parameter.default is parameter.empty}
    found += [f"{path}.{key} is no parameter of {name}" for key in sorted(given - set(parameters))]
    found += [f"{path}.{key} is needed by {name}" for key in sorted(needed - given - added)]
    return found + [f"{path}.{key} is given twice" for key in sorted(given & added)]


def parameters_of(target):
    if getattr(target, "__init__", None) is nn.Module.__init__:
        return {}
    parameters = inspect.signature(target).parameters
    assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values()), f"{target} takes any key"
    return parameters


@pytest.mark.parametrize("option", [None, *options()])
def test_every_option_composes_and_binds(option):
    cfg = composed(*([option] if option else []))
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert misfits(plain) == []
    assert plain["lm"]["_target_"] == "sae_nfm.lm.model.LanguageModel"
    config.check(cfg)


def test_the_options_are_all_of_the_groups_that_there_are():
    found = {option.partition("=")[0].partition("@")[0] for option in options()}
    groups = "lm corpus sae nfm evaluation optimizer trainer logger callbacks debug experiment ablation sweep"
    assert set(groups.split()) <= found


@pytest.mark.parametrize("group", ALL_OF_THEM)
def test_the_study_has_every_objective_and_every_stage(default, group):
    files = {path.stem for path in (Path(CONFIG_DIR) / group).glob("*.yaml")}
    assert set(default[group]) == files
    assert len(files) >= 3


def test_hydras_callbacks_bind_too():
    callbacks = OmegaConf.to_container(hydras_own().callbacks)
    assert callbacks
    assert misfits(callbacks) == []


@pytest.mark.parametrize(
    ("override", "misfit"),
    [
        ("+sae.d_sea=5", "sae.d_sea is no parameter of"),
        ("~sae.k", "sae.k is needed by"),
        ("+sae.d_in=5", "sae.d_in is given twice"),
        ("+nfm_optimizer.lrr=1", "nfm_optimizer.lrr is no parameter of"),
        ("+logger.dir=x", "logger.dir is no parameter of"),
        (
            "+callbacks={mine: {_target_: lightning.pytorch.callbacks.Timer, durtion: 1}}",
            "callbacks.mine.durtion is no parameter of",
        ),
        ("+trainer.acelerator=x", "trainer.acelerator is no parameter of"),
        ("+evaluation.baseline.theta.nrom=x", "evaluation.baseline.theta.nrom is no parameter of"),
    ],
)
def test_a_node_that_does_not_bind_is_found(override, misfit):
    (found,) = misfits(OmegaConf.to_container(composed(override), resolve=True))
    assert found.startswith(misfit)


def values_of(sweep):
    """The settings or groups that a sweep varies, each with its values."""
    params = hydras_own(sweep).sweeper.params
    for override in OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in params.items()]):
        value = override.value()
        interval = isinstance(value, IntervalSweep)
        values = [value.start, value.end] if interval else list(override.sweep_iterator())
        assert len(values) >= 2
        yield override.key_or_group, values


@pytest.mark.parametrize("sweep", [option for option in options() if option.startswith("sweep=")])
def test_every_job_of_every_sweep_is_a_study(sweep):
    assert str(hydras_own(sweep).mode).endswith("MULTIRUN")
    varied = list(values_of(sweep))
    assert varied
    cfg = composed(sweep)
    for key, values in varied:
        for value in values:
            if f"{key}={value}" not in options():
                assert OmegaConf.select(cfg, key) is not None
                OmegaConf.update(cfg, key, value)
                config.check(cfg)


def test_the_sweep_over_families_is_every_family_at_every_sparsity():
    sizes = "experiment=sae_quality"
    jobs = dict(values_of("sweep=sae_families"))
    families = {option.partition("=")[2] for option in options() if option.startswith("sae=")}
    assert set(jobs["sae"]) == families - {"pretrained"}
    assert jobs["l0"] == [8, 16, 32, 64]
    for family, l0 in itertools.product(jobs["sae"], jobs["l0"]):
        sae = config.check(compose("study", overrides=[sizes, f"sae={family}", f"l0={l0}"])).sae
        assert (sae.get("k", sae.get("l0")), sae.d_sae, "k" in sae) == (l0, 1024, "l0" not in sae)


def test_one_sparsity_reaches_every_family_and_the_familys_own_setting_wins():
    for family, own in (("topk", "k"), ("matryoshka", "k"), ("relu", "l0"), ("gated", "l0")):
        for experiment in ("quickstart", "planted"):
            assert (
                compose("study", overrides=[f"experiment={experiment}", f"sae={family}", "l0=7"]).sae[own]
                == 7
            )
        assert compose("study", overrides=[f"sae={family}", "l0=7", f"sae.{own}=9"]).sae[own] == 9
    assert compose("study", overrides=["experiment=claflin_2025"]).sae.k == 1024


def test_group_experiment_ablation_and_command_line_win_in_this_order():
    def order(*overrides):
        return compose("study", overrides=list(overrides)).nfm.order

    experiment = "experiment=planted"
    assert compose("study", overrides=["nfm=full"]).nfm.d_embed == 256
    assert compose("study", overrides=["nfm=full", experiment]).nfm.d_embed == 64
    assert order("nfm=full", experiment) == 2
    assert order("nfm=full", experiment, "ablation=order_3") == 3
    assert order("nfm=full", "nfm.order=4", experiment, "ablation=order_3") == 4


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("train_tokns=1", "train_tokns"),
        ("sae.d_sea=1", "d_sea"),
        ("evaluation.draw=1", "draw"),
        ("ablation=order_9", "order_9"),
    ],
)
def test_a_misspelt_key_or_option_does_not_compose(override, named):
    with pytest.raises(HydraException, match=named):
        compose("study", overrides=[override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sae.k=5000", r"sae\.k=5000: allowed are 1 to d_sae=2048"),
        ("train_tokens=10", r"train_tokens=10: allowed are whole numbers from batch_tokens=2048"),
        ("nfm_train_tokens=0", r"nfm_train_tokens=0: allowed are whole numbers from 1"),
        ("pool_tokens=3000", r"pool_tokens=3000: allowed are multiples of batch_tokens=2048"),
        ("nfm.order=7", r"nfm\.order=7: allowed are 1, 2, 3, 4"),
        ("evaluation.draws=0", r"evaluation\.draws=0: allowed"),
        ("evaluation.bos=drop", r"evaluation\.bos=drop: allowed are keep, patch"),
        ("evaluation.replace=some", r"evaluation\.replace=some: allowed are all, single"),
        (
            "evaluation.baselines=[epsilon]",
            r"evaluation\.baselines=\['epsilon'\]: allowed are eps, ",
        ),
        (
            "evaluation.reconstructions=[sea]",
            r"evaluation\.reconstructions=\['sea'\]: allowed are identity, sae, ",
        ),
        (
            "evaluation.matched=[mlp]",
            r"evaluation\.matched=\['mlp'\]: allowed are ",
        ),
        ("sae.auxk=0", r"sae\.auxk=0: allowed are null and whole numbers from 1"),
        ("sae.auxk_coefficient=-1", r"sae\.auxk_coefficient=-1: allowed are numbers from 0"),
        ("batch_tokens=1", r"batch_tokens=1: allowed are whole numbers from 2"),
        ("warmup=2", r"warmup=2(\.0)?: allowed are fractions from 0 to 1"),
        ("seed=abc", "seed=abc: allowed are whole numbers from 0"),
        ("train_tokens=100k", "train_tokens=100k: allowed are whole numbers from 1"),
        ("l0=0", r"l0=0: allowed are numbers above 0"),
        ("l0=8.5", r"sae\.k=8\.5: allowed are whole numbers from 1"),
        ("sae.k=8.5", r"sae\.k=8\.5: allowed are whole numbers from 1"),
        ("evaluation.top_n=-1", r"evaluation\.top_n=-1: allowed are whole numbers from 0"),
        ("normalizer=per_dim", "normalizer=per_dim: .*did you mean per_dimension"),
        ("nfm_optimizer.lr=-1", r"nfm_optimizer\.lr=-1.*: .*allowed are what torch\.optim\.Adam takes"),
        ("sae_optimizer.betas=[2,2]", r"sae_optimizer\.betas=\[2.*: .*torch\.optim\.Adam takes"),
        ("nfm_optimizer.lr=abc", r"nfm_optimizer\.lr=abc: allowed are numbers"),
        ("nfm_optimizer.lrr=1", r"nfm_optimizer\.lrr=1: .*did you mean lr\?"),
        (
            "trainer.precision=bf16-true",
            r"trainer\.precision=bf16-true: .*allowed are 32-true, bf16-mixed, 64",
        ),
        ("trainer.precision=bf16-mixd", r"trainer\.precision=bf16-mixd: .*did you mean bf16-mixed\?"),
        ("evaluation.reconstruction.mlp.rounds=0", r"evaluation\.reconstruction\.mlp\.rounds=0: allowed"),
        (
            "evaluation.reconstruction.refit.control.fit_k=0",
            r"reconstruction\.refit\.control\.fit_k=0: allowed",
        ),
        ("evaluation.baseline.theta.norm=y", r"evaluation\.baseline\.theta\.norm=y: allowed are x, reco"),
        ("evaluation.reconstructions=[sae_planted]", r"evaluation\.reconstructions=.*: allowed are lists"),
        ("nfm.linar=false", r"nfm\.linar=false: .*did you mean linear\?; allowed are .*interaction"),
        ("nmf.linear=false", "nmf=.*did you mean nfm"),
        (
            "sae._target_=sae_nfm.models.saes.topk.TopK",
            r"sae\._target_=sae_nfm\.models.*TopK: .*no attribute",
        ),
        ("seed=${sed}", r"seed=.*: Interpolation key 'sed' not found"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_before_anything_is_trained(default, override, message):
    OmegaConf.set_struct(default, False)  # as files under conf/ are merged
    cfg = OmegaConf.merge(default, OmegaConf.from_dotlist([override]))
    with pytest.raises(NotAllowed, match=message):
        config.check(cfg)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["stages=[finetune]"],
            "finetune goes on from interaction and linear and sae, which no stage before",
        ),
        (
            ["stages=[sae,nfm_linear,finetune]"],
            "finetune goes on from interaction and linear, which no stage",
        ),
        (["stages=[sae,nfm]"], "nfm goes on from a linear part, .* allowed are lists with nfm_linear before"),
        (["stages=[sae,nfm_linear]"], "no stage makes the NFM; allowed are lists with nfm, .* and nfm=none"),
        (["stages=[sae,joint]", "stage.joint.parts=[linear,interaction]"], "allowed are lists with sae"),
        (["stages=[sae,nfm]", "nfm.fit=together"], None),
        (["stages=[sae,nfm]", "nfm.linear=false", "nfm.bias=false"], None),
        (["stages=[sae,finetune]", "nfm=none"], None),
        (["stages=[joint,finetune]"], None),
    ],
)
def test_a_stage_that_goes_on_from_what_is_not_made_is_refused(default, overrides, message):
    with pytest.raises(NotAllowed, match=message) if message else nullcontext():
        config.check(composed(*overrides))


def test_what_another_choice_took_away_has_no_settings():
    with pytest.raises(
        NotAllowed, match=r"nfm=\{'interaction': False\}: allowed are null and settings with a _target_"
    ):
        config.check(compose("study", overrides=["nfm=none", "ablation=linear_only"]))


def test_a_setting_that_is_missing_is_asked_for():
    with pytest.raises(NotAllowed, match=r"sae\.k=.*it has no value"):
        config.check(compose("study", overrides=["~sae.k"]))


def test_a_float_that_is_whole_is_a_whole_number_and_makes_the_same_study():
    one, other = (
        config.check(compose("study", overrides=[f"train_tokens={n}", f"sae.k={k}"]))
        for n, k in (("1e5", "8.0"), ("100000", "8"))
    )
    assert json.dumps(config.plain(one)) == json.dumps(config.plain(other))
    assert (one.train_tokens, one.nfm_train_tokens) == (100000, 100000)


def test_the_memory_of_devices_by_number_is_the_same_before_and_after_json():
    given = ("lm=local", "lm.path=x", "lm.device_map=auto", "lm.max_memory={0: 20GiB, 1: 5, cpu: 60GiB}")
    asked = compose("study", overrides=list(given))
    found = config.plain(config.check(asked))
    assert found["lm"]["max_memory"] == {"0": "20GiB", "1": 5, "cpu": "60GiB"}
    assert json.loads(json.dumps(found, sort_keys=True)) == found
    assert config.plain(asked.lm) == found["lm"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_named():
    with pytest.raises(NotAllowed, match=r"trainer\.accelerator=gpu: .*allowed are .*trainer=cpu"):
        config.ranks(config.check(compose("study", overrides=["trainer=gpu"])))


@pytest.mark.parametrize("setting", ["fast_dev_run=true", "accumulate_grad_batches=4", "max_steps=5"])
def test_what_would_train_other_steps_than_are_recorded_is_refused(setting):
    named = f"trainer.{setting.partition('=')[0]}=.*: .*settings of their own; allowed are accelerator"
    with pytest.raises(ValueError, match=named):
        config.check(compose("study", overrides=[f"+trainer.{setting}"]))


def test_apples_mps_is_passed_by_for_the_cpu_and_refused_where_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for trainer in ("auto", "cpu"):
        checked = config.check(compose("study", overrides=[f"trainer={trainer}"]))
        assert checked.trainer.accelerator == "cpu"
    with pytest.raises(
        NotAllowed, match=r"trainer\.accelerator=gpu: Apple's MPS has no float64.* allowed are cpu"
    ):
        config.check(compose("study", overrides=["trainer=gpu"]))


def test_what_changes_weights_is_part_of_what_determines_them():
    def spec(*overrides):
        return config.trainer_spec(compose("study", overrides=list(overrides)))

    assert spec("trainer=cpu") == spec("trainer=ddp") == {"precision": "32-true"}
    assert spec("trainer.precision=bf16-mixed") != spec()
    assert spec("+trainer.deterministic=true") != spec()
    assert spec("+trainer.detect_anomaly=true") == spec()


def test_a_value_that_only_the_user_can_give_is_asked_for():
    with pytest.raises(ValueError, match=r"lm\.path=\?\?\?: it has no value"):
        config.check(compose("study", overrides=["lm=local"]))


def test_without_an_nfm_the_reconstructions_that_need_one_are_left_out():
    def names(*overrides):
        cfg = compose("study", overrides=list(overrides))
        return {condition.name for condition in config.conditions(cfg)}

    assert {"sae", "sae_linear", "sae_interaction", "sae_nfm", "eps(sae)", "eps(sae_nfm)"} <= names()
    assert not {"sae_linear", "sae_interaction", "sae_nfm", "eps(sae_nfm)"} & names("nfm=none")
    assert {"clean", "sae", "eps(sae)"} <= names("nfm=none")


def test_a_misspelt_key_ends_the_command_with_its_name_its_value_and_what_is_allowed(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "sae_nfm", "nfm.d_embd=63"],
        cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert re.search(r"nfm\.d_embd=63.*allowed.*d_embed", done.stderr, re.DOTALL)
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
