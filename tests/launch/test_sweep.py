"""What jobs a command line makes, how their folders are called, and what Hydra's sweepers get back."""

import sys
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from sae_nfm import __main__ as entry
from sae_nfm.launch.composed import composed
from sae_nfm.launch.jobs import same_study
from sae_nfm.settings.schema import folder_name, plain, register


@pytest.fixture
def jobs_of(monkeypatch, tmp_path):
    """Folder names and settings of a command line's jobs, none of which is run."""

    def run(*overrides, objective=lambda cfg: 0.0):
        found = []

        def record(cfg):
            OmegaConf.resolve(cfg)
            found.append((Path(HydraConfig.get().runtime.output_dir).name, cfg))
            return objective(cfg)

        monkeypatch.setattr(entry, "run_job", record)
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        monkeypatch.setattr(sys, "argv", ["sae_nfm", *overrides, f"hydra.sweep.dir={tmp_path}"])
        entry.main()
        return found

    return run


def test_jobs_are_named_by_what_varies(jobs_of):
    jobs = jobs_of("-m", "lm=local", "lm.path=/some/where", "ablation=none,hidden_layer", "seed=5")
    assert [name for name, _ in jobs] == ["ablation-none", "ablation-hidden_layer"]
    assert [(cfg.seed, cfg.lm.path, cfg.nfm.mlp) for _, cfg in jobs] == [
        (5, "/some/where", False),
        (5, "/some/where", True),
    ]


def test_of_two_values_for_a_setting_the_last_one_counts(jobs_of):
    jobs = jobs_of("-m", "seed=3", "seed=1,2", "layer=0,1", "layer=2")
    assert [name for name, _ in jobs] == ["seed-1", "seed-2"]


@pytest.mark.parametrize("of_a_file", [False, True], ids=["typed", "of a file"])
def test_a_group_that_varies_in_one_place_and_is_given_in_another(jobs_of, tmp_path, of_a_file):
    swept = ["optimizer@nfm_optimizer=adam_nfm,adam"]
    if of_a_file:
        (tmp_path / "sweep").mkdir()
        params = "{optimizer@nfm_optimizer: 'adam_nfm,adam'}"
        text = f"# @package _global_\nhydra: {{mode: MULTIRUN, sweeper: {{params: {params}}}}}\n"
        (tmp_path / "sweep" / "mine.yaml").write_text(text)
        swept = [f"--config-dir={tmp_path}", "sweep=mine"]
    jobs = jobs_of("-m", *swept, "optimizer@sae_optimizer=adam", "seed=5")
    assert [name for name, _ in jobs] == [
        f"optimizer@nfm_optimizer-{choice},optimizer@sae_optimizer-adam" for choice in ("adam_nfm", "adam")
    ]


def test_paths_make_no_folders(jobs_of):
    jobs = jobs_of("-m", "corpus=text", "corpus.path=/a/b.txt,'/c=d/e,f g'")
    assert [name for name, _ in jobs] == ["corpus.path-_a_b.txt", "corpus.path-__c-d_e,f_g_"]


def test_names_are_short_and_different():
    names = [folder_name("a-" + "ü" * 300 + end) for end in "xy"]
    assert len(set(names)) == 2
    assert all(len(name.encode()) < 255 for name in names)
    assert folder_name("") == "job"


def test_the_ablation_sweep_names_what_there_is():
    sweep = OmegaConf.load(Path(entry.CONFIG_DIR, "sweep", "ablations.yaml"))
    swept = set(sweep.hydra.sweeper.params.ablation.split(","))
    there = {path.stem for path in Path(entry.CONFIG_DIR, "ablation").glob("*.yaml")}
    assert swept <= there
    # `linear_only` and `none` by other names, what only nfm=published has to take away, and what needs a file
    assert there - swept == {"order_1", "order_2", "no_mlp", "no_dropout", "shared_k", "pairs"}


def test_the_command_line_wins_over_a_sweep_file(jobs_of):
    assert [cfg.layer for _, cfg in jobs_of("sweep=layers", "layer=1,3")] == [1, 3]


def test_sweeps_experiment_and_ablation_combine(jobs_of):
    several = ("sweep=[order,seeds]", "nfm.order=3,4", "seed=0")
    jobs = jobs_of(*several, "experiment=quickstart", "ablation=no_dropout")
    assert [name for name, _ in jobs] == ["nfm.order-3,seed-0", "nfm.order-4,seed-0"]
    assert {(cfg.name, cfg.nfm.dropout) for _, cfg in jobs} == {("quickstart", 0)}


def test_optuna_is_told_what_the_jobs_found(jobs_of, tmp_path):
    pytest.importorskip("optuna")
    jobs_of("sweep=search", "hydra.sweeper.n_trials=2", objective=lambda cfg: cfg.nfm.dropout)
    best = OmegaConf.load(tmp_path / "optimization_results.yaml")
    assert best.best_value == best.best_params["nfm.dropout"]


def test_a_study_is_the_same_on_another_device():
    cpu, gpu = ({"accelerator": kind, "precision": "32-true"} for kind in ("cpu", "gpu"))
    settings = {"seed": 0, "trainer": cpu, "artifacts": "here"}
    assert same_study(settings, settings | {"trainer": gpu, "artifacts": "there"})
    assert not same_study(settings, settings | {"seed": 1})
    assert not same_study(settings, settings | {"trainer": cpu | {"precision": "bf16-mixed"}})


def test_a_study_is_the_same_where_an_saes_files_have_said_its_site():
    register()
    asked = plain(composed(["sae=pretrained", "sae.path=sae"])[0])
    assert (asked["layer"], asked["hook"]) == (None, None)
    found = asked | {"layer": 2, "hook": "mlp_out"}
    assert same_study(found, asked)
    assert same_study(found, asked | {"layer": 2})
    assert not same_study(found, asked | {"layer": 3})
    assert not same_study(found, asked | {"seed": 1})


def test_a_study_is_the_same_where_it_was_attributed_once_it_was_finished():
    asked = {"seed": 0, "attribution": None, "trainer": {"precision": "32-true"}}
    found = asked | {"attribution": {"nodes": 8}}
    assert same_study(found, asked)
    assert not same_study(found, asked | {"attribution": {"nodes": 16}})
    assert not same_study(asked, found)
