"""Every command of the documentation composes, and its settings are allowed."""

import re
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from doc_pages import PAGES, ROOT, commands, name, write_files
from sae_nfm import config
from sae_nfm.compare.__main__ import main as compare
from sae_nfm.export import _parser as export_parser
from sae_nfm.launch.attribution import GROUPS
from sae_nfm.launch.composed import composed

ALL = [(page, command) for page in PAGES for command in commands(page.read_text())]
OURS = [case for case in ALL if case[1][:2] == ["python", "-m"]]
STUDIES = [(page, command[3:]) for page, command in OURS if command[2] == "sae_nfm"]
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)


def ids(cases):
    return [f"{name(page)}: {' '.join(command)[:80]}" for page, command in cases]


@pytest.fixture(autouse=True)
def reader(tmp_path, monkeypatch):
    """A folder with what a reader has made at that point."""
    config.register()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    pairs = Path("runs/STUDY/attribution/pairs.parquet")
    pairs.parent.mkdir(parents=True)
    pq.write_table(
        pa.table({"i": [0] * 100, "j": [*range(1, 101)], "taken_off_choosing": [1.0] * 100}), pairs
    )
    modules = set(sys.modules)
    yield tmp_path
    for module in set(sys.modules) - modules:
        if str(getattr(sys.modules[module], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[module]


def jobs(overrides):
    """The first and the last study of a command: of a sweep, all others lie between these."""
    given = [override for override in overrides if override != "-m"]
    _, hydra = composed([override for override in given if not is_sweep(override)])
    params = {} if hydra.sweeper.get("sampler") else dict(hydra.sweeper.params or {})
    named = {override.partition("=")[0] for override in given}
    swept = [f"{key}={values}" for key, values in params.items() if key not in named]
    parsed = OverridesParser.create().parse_overrides([*given, *swept])
    found = [job for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]
    return [found[0], found[-1]]


def is_sweep(override):
    return OverridesParser.create().parse_override(override).is_sweep_override()


def checked(overrides):
    cfg, _ = composed(overrides)
    if not cfg.sae._target_.startswith("sae_nfm.interop") or Path(cfg.sae.path).exists():
        config.check(cfg)  # what is on the hub only can say its site when it is there
    return cfg


@pytest.mark.parametrize(("page", "overrides"), STUDIES, ids=ids(STUDIES))
def test_a_study_composes_and_its_settings_are_allowed(page, overrides, reader):
    write_files(page.read_text(), reader)
    for job in jobs(overrides):
        cfg = checked(job)
        trained_on = 1 - sum(cfg.splits.values())
        longest = max(cfg.train_tokens, cfg.nfm_train_tokens)
        if cfg.corpus.get("streaming"):  # else all of it would be tokenised first
            assert trained_on * (cfg.max_tokens or 0) > longest


@pytest.mark.parametrize(("page", "command"), ALL, ids=ids(ALL))
def test_a_command_is_one_that_there_is(page, command, tmp_path):
    module, arguments = command[2] if command[0] == "python" else None, command[3:]
    if module == "sae_nfm.export":
        export_parser().parse_args(arguments)
    elif module == "sae_nfm.compare":
        for folder in arguments:
            Path(folder).mkdir(parents=True)
        assert compare(arguments) == 1  # there is nothing in them
    elif module == "sae_nfm.attribute":
        run, *overrides = arguments
        assert run == "runs/STUDY"
        groups = {override.partition("=")[0].partition(".")[0] for override in overrides}
        assert groups <= {*GROUPS, "artifacts"}
        checked(["attribution=pairs", *overrides])
    elif command[0] == "make":
        assert "-C" in command or command[1] in TARGETS
    else:
        assert module == "sae_nfm" or command[0] in ("pytest", "wandb", "git", "cp"), command


def test_there_are_commands_to_check():
    assert len(STUDIES) > 25
    assert {command[2] for _, command in OURS} == {
        "sae_nfm", "sae_nfm.compare", "sae_nfm.export", "sae_nfm.attribute",
    }  # fmt: skip


@pytest.mark.parametrize("wrong", ["nfm.ordr=2", "sweep=layer", "sae=topkk", "nfm.order=2,9"])
def test_what_is_wrong_is_found(wrong):
    def all_of_it():
        for job in jobs([wrong]):
            checked(job)

    with pytest.raises(ValueError, match=r"ordr|layer|topkk|order=9"):
        all_of_it()
