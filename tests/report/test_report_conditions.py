"""What the conditions of a result stand for, whatever they are called."""

import io
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from rich.console import Console

from fake_results import KL, fake_result, renamed, without_roles
from sae_nfm.report.conditions import (
    LABELS,
    Described,
    described,
    grouped_conditions,
    label,
    main_conditions,
    matched,
    of_role,
)
from sae_nfm.report.figures import draw_figures
from sae_nfm.report.headline import headline
from sae_nfm.report.tables import component_rows, condition_rows, print_ratios

NAMES = {"sae": "plain", "sae_linear": "zero", "sae_nfm": "both"}
CONF = Path(__file__).parents[2] / "conf" / "evaluation" / "default.yaml"


@pytest.fixture(scope="module")
def result():
    return fake_result(("sae", "sae_linear", "sae_interaction", "sae_nfm", "refit", "mlp"), ("eps", "cov"))


def test_renamed_conditions_make_the_same_headlines(result):
    assert headline(renamed(result, NAMES)) == headline(result)


def test_renamed_conditions_make_the_same_tables(result):
    again = renamed(result, NAMES)

    def rows(result):
        return [row._replace(name="", reconstruction="") for row in condition_rows(result)]

    assert rows(again) == rows(result)
    parts = component_rows(again)
    assert [row.name for row in parts] == ["plain", "zero", "sae_interaction", "both"]
    assert [row._replace(name="") for row in parts] == [
        row._replace(name="") for row in component_rows(result)
    ]
    console = Console(file=io.StringIO(), width=120)
    print_ratios(again, console)
    assert "as a share of KL(zero)" in console.file.getvalue()


def test_renamed_conditions_make_the_same_figures(result, tmp_path):
    one, other = (
        draw_figures(found, tmp_path / str(i)) for i, found in enumerate((result, renamed(result, NAMES)))
    )
    assert [path.name for path in one] == [path.name for path in other]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_results_from_before_there_were_roles_are_read_by_their_usual_names(result):
    old = without_roles(result)
    assert {name: described(old, name) for name in old["conditions"]} == {
        name: described(result, name) for name in result["conditions"]
    }
    assert condition_rows(old) == condition_rows(result)
    assert headline(old) == headline(result)


def test_the_usual_roles_are_those_of_the_configuration():
    nodes = OmegaConf.load(CONF).reconstruction
    roles = {name: instantiate(node).role for name, node in nodes.items()}
    assert {name: described({}, name).role for name in nodes} == roles


def test_a_condition_is_what_the_result_says():
    result = {
        "conditions": {
            "eps(sae)": {"role": "sae", "reconstruction": "eps(sae)", "baseline": None},
            "clean": {"role": "clean", "reconstruction": None, "baseline": None},
            "ε of it": {"role": "baseline", "reconstruction": "eps(sae)", "baseline": "eps"},
        }
    }
    assert described(result, "eps(sae)") == Described("sae", "eps(sae)", None)
    assert described(result, "clean") == Described("clean", "clean", None)
    assert matched(result, "eps(sae)", "eps") == "ε of it"
    assert matched(result, "eps(sae)", "cov") is None
    assert matched(result, None, "eps") is None
    assert label(result, "ε of it") == "SAE: ε-random"


def test_conditions_without_a_role_of_their_own_are_told_by_name(result):
    assert label(result, "cov(sae)") == "SAE: covariance-matched"
    assert label(result, "mlp") == LABELS["control mlp"] == "SAE + MLP on the codes"
    assert label({}, "invented(other)") == "other: invented"


def test_of_several_conditions_of_a_role_the_first_has_its_words():
    entry = {"role": "sae", "reconstruction": "linear", "baseline": None}
    result = fake_result(("sae", "sae_nfm"))
    result["conditions"]["linear"] = result["conditions"]["sae"] | entry
    assert of_role(result, "sae") == "sae"
    assert [label(result, name) for name in ("sae", "linear", "sae_nfm")] == ["SAE", "linear", "SAE + NFM"]
    assert list(grouped_conditions(result)) == ["clean", "sae", "sae_nfm", "linear"]


def test_reconstructions_come_before_their_own_baselines():
    conditions = ["cov(sae)", "eps(sae_nfm)", "odd", "sae_nfm", "identity", "eps(sae)", "sae", "clean"]
    groups = grouped_conditions({"conditions": dict.fromkeys(conditions)})
    assert list(groups) == ["clean", "sae", "sae_nfm", "odd"]
    assert groups["sae"] == ["sae", "eps(sae)", "cov(sae)"]


def test_reconstructions_are_in_reading_order():
    assert list(grouped_conditions(fake_result(tuple(reversed(KL)), ()))) == ["clean", *KL]


def test_the_main_conditions_are_the_parts_and_else_the_first(result):
    assert main_conditions(result) == [
        "sae", "eps(sae)", "sae_linear", "sae_interaction", "sae_nfm", "eps(sae_nfm)",
    ]  # fmt: skip
    others = fake_result(("affine", "bias"), ())
    assert main_conditions(others) == ["affine", "bias"]
