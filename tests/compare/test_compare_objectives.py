"""What each objective buys: when it is asked, what is drawn, tabled and said."""

import csv
import html
import re
from statistics import mean

import pytest

from fake_results import OBJECTIVES, objective_result, swept_result, write_study
from sae_nfm.compare.__main__ import main
from sae_nfm.compare.measures import RESIDUAL_EXPLAINED
from sae_nfm.compare.objectives import by_objective, draw_objectives
from sae_nfm.compare.sentences import sentences
from sae_nfm.compare.steps import KL, LINEAR, NFM, SAE, STEPS
from sae_nfm.report.estimates import Estimate

TITLE = "What each objective buys"
CONDITIONS = {  # by objective, in the order of the steps
    "reconstruction": ("sae", "sae_linear", "sae_nfm", "mlp"),
    "kl": ("sae_alone", "linear_alone", "sae_nfm", "mlp"),
}


def without(result, *names):
    return result | {"conditions": {k: v for k, v in result["conditions"].items() if k not in names}}


def trained(result, **settings):
    """The result of a study with other objectives."""
    return result | {"settings": result["settings"] | settings}


def levels(result, objective, measure):
    entries = [result["conditions"][name] for name in CONDITIONS[objective]]
    return [entry["kl"]["mean"] if measure == "kl" else entry[measure] for entry in entries]


def compared(folder, results):
    """The rows of the table as CSV, and the page."""
    for i, result in enumerate(results):
        write_study(folder / f"job-{i}", result)
    assert main([str(folder)]) == 0
    rows = csv.DictReader((folder / "compare_objectives.csv").open(encoding="utf-8"))
    return list(rows), (folder / "compare.html").read_text(encoding="utf-8")


def test_a_sweep_over_objectives_gets_a_figure_a_table_and_a_sentence(tmp_path, capsys):
    rows, page = compared(tmp_path, map(objective_result, OBJECTIVES))
    out = capsys.readouterr().out
    assert (tmp_path / "figures" / "compare_objectives.png").is_file()
    assert "lower left is better" in page
    assert [(row["objective"], row["condition"]) for row in rows[:5]] == [
        *(("reconstruction", step) for step in STEPS),
        ("ce", SAE),
    ]
    assert len(rows) == 4 * len(OBJECTIVES)
    assert f"<h2>{TITLE}</h2>" in page
    assert TITLE not in out
    (said,) = [line for line in out.splitlines() if line.startswith("Trained for kl, ")]
    assert html.escape(said) in page


def test_the_table_holds_what_the_results_say(tmp_path):
    result = objective_result("kl")
    rows, page = compared(tmp_path, [result, objective_result("reconstruction")])
    for row, name in zip(rows[4:], CONDITIONS["kl"], strict=True):
        entry, eps = result["conditions"][name], result["pathology"][name]["eps"]
        assert [float(row[key]) for key in ("kl", "kl_low", "kl_high")] == [
            entry["kl"]["mean"],
            *entry["kl"]["ci95"],
        ]
        assert [float(row[key]) for key in ("ce_increase", "ce_increase_low", "ce_increase_high")] == [
            entry["ce_increase"],
            *entry["ce_increase_ci95"],
        ]
        assert [float(row[key]) for key in ("mse", "top1_agreement", "top_n_kl", "kendall_tau")] == [
            entry["mse"],
            entry["top1_agreement"],
            entry["top_n"]["kl"],
            entry["top_n"]["kendall_tau"],
        ]
        assert [float(row[key]) for key in ("pathology", "pathology_low", "pathology_high")] == [
            eps["value"],
            *eps["ci95"],
        ]
        assert row["studies"] == "1"
        assert f'data-sort="{entry["kl"]["mean"]!r}"' in page


def test_rows_of_the_page_sort_by_step_and_have_only_what_was_measured(tmp_path):
    results = [objective_result(objective) for objective in ("reconstruction", "kl")]
    for result in results:
        result["pathology"], result["ratios"] = {}, {}
        for entry in result["conditions"].values():
            entry.pop("top_n", None)
    results = [without(result, "mlp", "eps(sae_nfm)") for result in results]
    rows, page = compared(tmp_path, results)
    assert {row["kendall_tau"] for row in rows} == {""}
    table = page.partition(TITLE)[2].partition("</table>")[0]
    assert re.findall(r'<button type="button">(.*?)</button>', table) == [
        "objective",
        "condition",
        "KL, nats/token",
        "CE increase, nats/token",
        "MSE",
        "top-1 agreement",
        "KL ÷ ε",
    ]
    assert re.findall(r'<td data-sort="(\d)" class="name">(.*?)</td>', table) == 2 * [
        ("0", SAE),
        ("1", LINEAR),
        ("2", NFM),
    ]


@pytest.mark.parametrize(
    ("results", "applies"),
    [
        ([objective_result("kl"), objective_result("ce")], True),
        ([objective_result("kl"), objective_result("kl", seed=1)], False),
        ([swept_result(layer=layer) for layer in (1, 2)], False),
        ([objective_result("kl"), objective_result("ce") | {"conditions": {}}], False),
        ([objective_result("kl")], False),
    ],
)
def test_the_question_is_of_several_objectives(studies_of, tmp_path, results, applies):
    studies, varied = studies_of(results)
    assert (draw_objectives(studies, varied) is not None) is applies
    assert bool(by_objective(studies, varied)) is applies
    assert any(said.startswith("Trained for") for said in sentences(studies, varied)) is applies


def test_a_comparison_without_objectives_leaves_no_table(tmp_path):
    compared(tmp_path, [objective_result("kl"), objective_result("ce")])
    assert main([str(tmp_path / "job-0"), "--out", str(tmp_path)]) == 0
    assert not (tmp_path / "compare_objectives.csv").exists()
    assert not (tmp_path / "figures" / "compare_objectives.png").exists()
    assert TITLE not in (tmp_path / "compare.html").read_text(encoding="utf-8")


def test_studies_from_before_there_were_objectives_are_for_reconstruction(studies_of):
    studies, varied = studies_of([objective_result("kl"), swept_result()])
    assert [group.name for group in by_objective(studies, varied)] == ["reconstruction", "kl"]
    assert "than for reconstruction" in said_of((studies, varied))


def lines_of(axes, length):
    return [line for line in axes.lines if len(line.get_xdata()) == length]


def test_paths_lead_from_the_sae_to_the_nfm_and_branch_to_the_mlp(studies_of):
    results = {objective: objective_result(objective) for objective in ("reconstruction", "kl")}
    figure = draw_objectives(*studies_of(results.values()))
    whole, enlarged = figure.axes
    for path, objective in zip(lines_of(whole, 3), results, strict=True):
        assert [*path.get_xdata()] == levels(results[objective], objective, "mse")[:3]
        assert [*path.get_ydata()] == levels(results[objective], objective, "kl")[:3]
    branches = [line for line in lines_of(whole, 2) if len(set(line.get_xdata())) == 2]
    assert [[*line.get_ydata()] for line in branches] == [
        levels(results[objective], objective, "kl")[1::2] for objective in results
    ]
    of_sae = levels(results["reconstruction"], "reconstruction", "kl")[0]
    assert enlarged.get_ylim()[1] < of_sae < whole.get_ylim()[1]
    hollow = [line for line in lines_of(whole, 1) if line.get_markerfacecolor() == "white"]
    assert [line.get_ydata()[0] for line in hollow] == [
        levels(results[objective], objective, "kl")[3] for objective in results
    ]


def test_bars_are_the_intervals_of_the_kl(studies_of):
    results = [objective_result(objective) for objective in CONDITIONS]
    axes = draw_objectives(*studies_of(results)).axes[0]
    bars = [tuple(line.get_ydata()) for line in lines_of(axes, 2) if len(set(line.get_xdata())) == 1]
    assert set(bars) == {
        tuple(result["conditions"][name]["kl"]["ci95"])
        for result, names in zip(results, CONDITIONS.values(), strict=True)
        for name in names
    }


def test_points_grow_along_the_path_and_both_legends_name_what_is_there(studies_of):
    results = [without(objective_result(objective), "mlp") for objective in CONDITIONS]
    figure = draw_objectives(*studies_of(results))
    objectives, steps = figure.legends
    assert [text.get_text() for text in objectives.get_texts()] == ["reconstruction", "kl"]
    assert [text.get_text() for text in steps.get_texts()] == ["SAE alone", "+ linear part", "+ NFM"]
    sizes = {line.get_ydata()[0]: line.get_markersize() for line in lines_of(figure.axes[0], 1)}
    along = [sizes[kl] for kl in levels(objective_result("kl"), "kl", "kl")[:3]]
    assert along == sorted(set(along))


def test_an_sae_without_nfm_is_a_point_and_nothing_is_enlarged(studies_of):
    results = [
        without(objective_result(objective), "linear_alone", "sae_linear", "sae_nfm", "mlp")
        for objective in ("kl", "ce")
    ]
    studies, varied = studies_of(results)
    assert len(draw_objectives(studies, varied).axes) == 1
    assert not any(said.startswith("Trained for") for said in sentences(studies, varied))


def test_levels_far_apart_are_drawn_on_logarithmic_axes(studies_of):
    results = [objective_result("reconstruction"), objective_result("kl")]
    for entry in results[1]["conditions"].values():
        entry["kl"]["mean"] /= 20
        entry["kl"]["ci95"] = [end / 20 for end in entry["kl"]["ci95"]]
    figure = draw_objectives(*studies_of(results))
    axes = figure.axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")
    figure.draw_without_rendering()
    shown = {tick.get_text() for tick in axes.get_yticklabels()}
    assert {"0.02", "0.05", "0.1", "0.2"} <= shown


def test_seeds_of_an_objective_are_one_path_of_means_with_ranges(studies_of, tmp_path):
    results = [objective_result(objective, seed) for objective in ("ce", "kl") for seed in range(3)]
    studies, varied = studies_of(results)
    groups = by_objective(studies, varied)
    assert [(group.objective, len(group.studies)) for group in groups] == [("ce", 3), ("kl", 3)]
    found = [result["conditions"]["sae_nfm"]["kl"]["mean"] for result in results[3:]]
    assert groups[1].read(NFM, KL) == (pytest.approx(mean(found)), min(found), max(found))
    path = lines_of(draw_objectives(studies, varied).axes[0], 3)[1]
    assert path.get_ydata()[2] == pytest.approx(mean(found))
    rows, _ = compared(tmp_path / "seeds", results)
    assert [row["studies"] for row in rows] == 8 * ["3"]
    assert float(rows[6]["kl_low"]) == min(found)


@pytest.mark.parametrize(
    ("varied_ones", "names"),
    [
        (("nfm_objective",), ["ce", "kl"]),
        (("sae_objective",), ["ce", "kl"]),
        (("objective", "sae_objective", "nfm_objective"), ["ce", "kl"]),
        (("objective", "nfm_objective"), ["ce", "kl"]),
    ],
)
def test_any_of_the_objectives_may_be_the_one_that_varies(studies_of, varied_ones, names):
    alike = trained(objective_result("kl"), nfm_objective="reconstruction")
    results = [trained(alike, **dict.fromkeys(varied_ones, objective)) for objective in names]
    assert [group.name for group in by_objective(*studies_of(results))] == names


def test_the_nfms_objective_decides_where_both_vary(studies_of):
    results = [
        trained(objective_result(nfm), sae_objective=sae) for nfm in ("ce", "kl") for sae in ("ce", "kl")
    ]
    groups = by_objective(*studies_of(results))
    assert [group.name for group in groups] == [
        f"{nfm}, sae_objective={sae}" for nfm in ("ce", "kl") for sae in ("ce", "kl")
    ]


def test_how_parts_are_tuned_matters_to_those_that_are_tuned(studies_of):
    def names(**tokens):
        results = [trained(objective_result(o), tuning_tokens=number) for o, number in tokens.items()]
        return [group.name for group in by_objective(*studies_of(results))]

    assert names(reconstruction=100, kl=200, ce=200) == ["reconstruction", "ce", "kl"]
    assert names(reconstruction=100, kl=200, ce=300) == [
        "reconstruction, tuning_tokens=100",
        "ce, tuning_tokens=300",
        "kl, tuning_tokens=200",
    ]


def test_other_settings_make_paths_and_rows_of_their_own(studies_of, tmp_path):
    results = [objective_result(objective, layer=layer) for layer in (2, 3) for objective in CONDITIONS]
    rows, page = compared(tmp_path / "layers", results)
    assert [(row["objective"], row["layer"]) for row in rows[::4]] == [
        ("reconstruction", "2"), ("reconstruction", "3"), ("kl", "2"), ("kl", "3")
    ]  # fmt: skip
    assert '<td data-sort="kl">kl</td><td data-sort="2">2</td>' in page
    few = draw_objectives(*studies_of(results))
    assert [text.get_text() for text in few.legends[0].get_texts()] == [
        "reconstruction, layer=2",
        "reconstruction, layer=3",
        "kl, layer=2",
        "kl, layer=3",
    ]
    many = draw_objectives(*studies_of([objective_result(o, layer=i) for o in CONDITIONS for i in range(5)]))
    assert [text.get_text() for text in many.legends[0].get_texts()] == ["reconstruction", "kl"]
    assert len(lines_of(many.axes[0], 3)) == 10


def said_of(compared):
    return next(sentence for sentence in sentences(*compared) if sentence.startswith("Trained for"))


def gained(result, kl, share):
    result["conditions"]["sae_nfm"]["kl"]["mean"] = kl
    result["marginal_interaction"]["share"] = {"value": share, "ci95": [share - 0.011, share + 0.011]}
    return result


def test_the_sentence_holds_the_best_objective_against_reconstruction(studies_of):
    fitted = gained(objective_result("reconstruction"), 0.2, 0.043)
    others = [gained(objective_result("kl"), 0.146, 0.081), gained(objective_result("ce"), 0.15, 0.2)]
    assert said_of(studies_of([fitted, *others])) == (
        "Trained for kl, the SAE + NFM has 27% less KL than for reconstruction, and interactions take "
        "8.1% [7.0, 9.2] off what the best linear reconstruction leaves (reconstruction: 4.3% [3.2, 5.4])."
    )
    assert said_of(studies_of(others)) == (
        "Trained for kl, the SAE + NFM has the least KL of all objectives, and interactions take "
        "8.1% [7.0, 9.2] off what the best linear reconstruction leaves."
    )
    worse = [gained(objective_result("kl"), 0.3, 0.081), gained(fitted, 0.2, -0.004)]
    assert said_of(studies_of(worse)) == (
        "Trained for reconstruction, the SAE + NFM has the least KL of all objectives, and interactions take "
        "−0.40% [−1.50, 0.70] off what the best linear reconstruction leaves."
    )


def test_the_sentence_compares_like_with_like(studies_of):
    def study(objective, layer, kl):
        return gained(objective_result(objective, layer=layer), kl, 0.05)

    results = [study("reconstruction", 2, 0.2), study("reconstruction", 3, 0.5)]
    said = said_of(studies_of([*results, study("kl", 2, 0.19), study("kl", 3, 0.1)]))
    assert said.startswith("Trained for kl, layer=3, the SAE + NFM has 80% less KL than for reconstruction")
    said = said_of(studies_of([results[0], study("kl", 2, 0.19), study("kl", 3, 0.1)]))
    assert said.startswith("Trained for kl, layer=3, the SAE + NFM has the least KL of all objectives")


def test_the_sentence_says_where_it_is_of_several_seeds(studies_of):
    results = [
        gained(objective_result(objective, seed), kl, 0.05 + seed / 100)
        for objective, kl in (("reconstruction", 0.2), ("kl", 0.1))
        for seed in range(3)
    ]
    assert said_of(studies_of(results)) == (
        "Trained for kl, the SAE + NFM has 50% less KL than for reconstruction, and interactions take "
        "6.0% [5.0, 7.0] off what the best linear reconstruction leaves (reconstruction: 6.0% [5.0, 7.0]); "
        "means over the seeds, with their range."
    )


def test_the_residual_explained_is_by_what_the_last_stage_made(studies_of):
    result = objective_result("kl")
    parts = {"sae": ["sae"], "nfm_linear": ["linear"], "nfm": ["linear", "interaction"]}
    parts |= {"nfm_for_kl": ["linear", "interaction"], "sae_for_kl": ["sae"]}
    result["validation"] |= {"nfm_for_kl": {"residual_explained": 0.21}, "sae_for_kl": {}}
    staged = result | {"stages": {name: {"parts": of} for name, of in parts.items()}}
    studies, _ = studies_of([staged, result])  # the second as before there were stages
    found = [study.values[RESIDUAL_EXPLAINED.name] for study in studies]
    assert found == [Estimate(0.21), Estimate(0.29)]
