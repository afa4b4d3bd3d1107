import io

import pytest
from rich.console import Console

from fake_results import fake_result
from sae_nfm.report.tables import component_rows, condition_rows, paired_test_rows, print_ratios


def printed(result, width=120):
    console = Console(file=io.StringIO(), width=width)
    print_ratios(result, console)
    return console.file.getvalue()


def test_every_condition_has_a_row_with_its_numbers():
    result = fake_result(baselines=("eps", "cov"))
    rows = {row.name: row for row in condition_rows(result)}
    assert set(rows) == set(result["conditions"])
    for name, row in rows.items():
        found = result["conditions"][name]
        assert row.kl == (found["kl"]["mean"], *found["kl"]["ci95"])
        assert row.ce_increase.value == found["ce_increase"]
        assert row.n == found["n"]
    kl = {name: result["conditions"][name]["kl"]["mean"] for name in rows}
    assert rows["cov(sae_nfm)"].times_baseline.value == pytest.approx(kl["sae_nfm"] / kl["cov(sae_nfm)"])
    assert rows["sae"].times_baseline is None


def test_the_parts_of_the_nfm_are_compared_with_the_sae():
    rows = component_rows(fake_result())
    assert [row.name for row in rows] == ["sae", "sae_linear", "sae_interaction", "sae_nfm"]
    assert rows[0].kl_reduction is None
    assert rows[2].kl_reduction.value == pytest.approx(1 - 2.1919 / 2.211)
    assert component_rows(fake_result(("sae",))) == []


def test_the_terminal_shows_means_intervals_and_ratios():
    result = fake_result()
    text = printed(result)
    ratio = result["ratios"]["sae/eps(sae)"]
    assert "2.211 [2.167, 2.255]" in text
    assert f"{ratio['value']:.2f}× [{ratio['ci95'][0]:.2f}, {ratio['ci95'][1]:.2f}]" in text
    assert "KL sae_nfm/sae" in text
    assert "KL reduction by the NFM" in text
    assert "0.0022 [0.0009, 0.0035] nats/token" in text


def test_no_digit_is_cut_in_a_narrow_terminal():
    wide, narrow = printed(fake_result(), 200), printed(fake_result(), 80)
    assert "…" not in narrow
    assert sorted(filter(str.isdigit, wide)) == sorted(filter(str.isdigit, narrow))


@pytest.mark.parametrize("result", [fake_result(("sae",), ()), {"conditions": {"clean": {}}}, {}])
def test_little_data_still_prints(result):
    assert "condition" in printed(result)


def test_tests_with_parts_missing_have_rows():
    result = {"tests": [{"a": "sae", "b": "eps(sae)"}]}
    (row,) = paired_test_rows(result)
    assert row.pair == "sae - eps(sae)"
    assert row.difference is None
    assert row.clustered == {}
