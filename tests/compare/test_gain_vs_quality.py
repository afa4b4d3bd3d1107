"""Gain against quality of the SAE: when there is a figure, what is in it, and what is said."""

import itertools

import numpy as np
import pytest
from scipy.stats import spearmanr

from fake_results import family_result, swept_result, write_study
from sae_nfm.compare.__main__ import main
from sae_nfm.compare.correlation import spearman
from sae_nfm.compare.quality import draw_quality, sae_points
from sae_nfm.compare.sentences import sentences

FAMILIES = ("topk", "batch_topk", "matryoshka", "jumprelu", "gated", "relu")

WITHOUT_NFM = {"reduction": None, "conditions": {}}


def sweep(families=FAMILIES, sparsities=(8, 16, 32, 64), seeds=(0,), slope=-0.5):
    """Explained variance grows with sparsity and by family; the reduction is linear in it."""
    for (i, family), l0, seed in itertools.product(enumerate(families), sparsities, seeds):
        explained = 0.6 + 0.05 * np.log2(l0 / 8) + 0.02 * i + 0.001 * seed
        yield family_result(family, l0, explained, 1 - explained, 0.6 + slope * explained, seed)


def test_a_sweep_over_families_gets_the_figure_and_the_sentence(tmp_path, capsys):
    for i, result in enumerate(sweep()):
        write_study(tmp_path / f"job-{i}", result)
    assert main([str(tmp_path)]) == 0
    said = "Over 24 studies, the NFM's reduction falls with the explained variance of the SAE: Spearman's ρ"
    out, page = capsys.readouterr().out, (tmp_path / "compare.html").read_text(encoding="utf-8")
    assert said in out
    assert said.replace("'", "&#x27;") in page
    assert "The larger a point, the more latents are active" in page
    assert (tmp_path / "figures" / "compare_gain_vs_quality.png").is_file()


@pytest.mark.parametrize(
    ("results", "applies"),
    [
        ([family_result("topk"), family_result("relu")], True),
        ([family_result("relu", l0) for l0 in (8, 16, 32)], True),
        ([family_result("topk", l0) for l0 in (8, 16)], False),
        ([swept_result(layer=layer) for layer in (1, 2, 3)], False),
        ([family_result("topk"), family_result("relu") | WITHOUT_NFM], False),
        ([family_result("topk")], False),
    ],
)  # fmt: skip
def test_the_figure_is_of_several_families_or_of_three_sparsities(studies_of, results, applies):
    assert (draw_quality(*studies_of(results)) is not None) is applies


def test_points_are_drawn_where_the_studies_are_and_joined_by_sparsity(studies_of):
    figure = draw_quality(*studies_of(sweep(families=("topk", "relu"), sparsities=(64, 8, 16))))
    explained, kl = figure.axes[0], figure.axes[1]
    lines = [line for line in explained.lines if len(line.get_xdata()) == 3]
    assert [line.get_xdata() for line in lines] == [
        pytest.approx([62, 67, 77]), pytest.approx([60, 65, 75])
    ]  # fmt: skip
    assert lines[0].get_ydata() == pytest.approx([60 - 31, 60 - 33.5, 60 - 38.5])
    assert [line.get_xdata() for line in kl.lines if len(line.get_xdata()) == 3] == [
        pytest.approx([0.38, 0.33, 0.23]), pytest.approx([0.40, 0.35, 0.25])
    ]  # fmt: skip
    sizes = [line.get_markersize() for line in explained.lines if line.get_marker() == "o"]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 3
    families, sparsities = figure.legends
    assert [text.get_text() for text in families.get_texts()] == ["relu", "topk"]
    assert [text.get_text() for text in sparsities.get_texts()] == ["L0 8", "L0 16", "L0 64"]


def test_the_bars_are_the_studies_intervals(studies_of):
    results = [family_result("topk", reduction=0.1), family_result("relu", reduction=0.2)]
    axes = draw_quality(*studies_of(results)).axes[0]
    bars = [
        line.get_ydata() for line in axes.lines if len(set(line.get_xdata())) == 1 < len(line.get_xdata())
    ]
    assert sorted(bar[0] for bar in bars) == pytest.approx([9.7, 19.4])
    assert sorted(bar[1] for bar in bars) == pytest.approx([10.3, 20.6])


def test_seeds_of_one_sae_are_one_point_and_other_settings_make_curves_of_their_own(studies_of):
    points = sae_points(*studies_of(sweep(families=("topk", "relu"), sparsities=(8,), seeds=(0, 1, 2))))
    assert [(point.family, len(point.studies)) for point in points] == [("relu", 3), ("topk", 3)]
    layers = [family_result("topk", l0) for l0 in (8, 16, 32) for _ in range(2)]
    for result, layer in zip(layers, itertools.cycle((1, 2)), strict=False):
        result["settings"]["layer"] = layer
    figure = draw_quality(*studies_of(layers))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["layer=1", "layer=2"]


def test_more_curves_than_styles_are_told_apart_by_family(studies_of):
    results = []
    for layer in range(4):
        for result in sweep(families=("topk", "relu"), sparsities=(8, 16)):
            result["settings"]["layer"] = layer
            results.append(result)
    figure = draw_quality(*studies_of(results))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["relu", "topk"]
    curves = [line for line in figure.axes[0].lines if line.get_linewidth() == 1.8]
    assert len([line for line in curves if len(set(line.get_xdata())) == 2]) == 8


def last_sentence(compared):
    return sentences(*compared)[-1]


def test_the_sentence_says_what_is_found(studies_of):
    falls = last_sentence(studies_of(sweep(families=FAMILIES[:2], sparsities=(8, 16, 32))))
    assert falls == (
        "Over 6 studies, the NFM's reduction falls with the explained variance of the SAE: "
        "Spearman's ρ −1.00; at equal L0 (partial correlation of ranks) −1.00."
    )
    rises = last_sentence(studies_of(sweep(slope=0.3, seeds=(0, 1))))
    assert rises.startswith(
        "Over 48 studies of 24 SAEs, each the mean over its seeds, the NFM's reduction rises with "
    )


def test_what_may_be_chance_is_called_so(studies_of):
    gains = (3, 1, 4, 0, 5, 2)
    results = [
        family_result(l0=2**i, explained_variance=0.5 + 0.05 * i, reduction=0.1 + 0.01 * gain)
        for i, gain in enumerate(gains, start=2)
    ]
    said = last_sentence(studies_of(results))
    assert "neither rises nor falls beyond chance with the explained variance" in said
    assert f"Spearman's ρ {spearmanr(range(6), gains).statistic:.2f} (95% interval −" in said
    assert "at equal L0" not in said  # L0 and explained variance are in one order


def test_few_saes_or_no_question_get_no_sentence(studies_of):
    for results in (
        sweep(families=("topk",), sparsities=(2, 4, 8, 16, 32)),
        [swept_result(layer=layer) for layer in range(8)],
    ):
        assert not any("Spearman" in sentence for sentence in sentences(*studies_of(results)))


def test_the_rank_correlation_is_scipys_and_its_interval_holds_the_truth():
    rng = np.random.default_rng(0)
    held, truth = 0, 6 / np.pi * np.arcsin(0.6 / 2)  # Spearman's ρ of a bivariate normal of correlation 0.6
    for _ in range(500):
        x = rng.normal(size=24)
        y = 0.6 * x + 0.8 * rng.normal(size=24)
        found = spearman(x.tolist(), y.tolist())
        assert found.value == pytest.approx(spearmanr(x, y).statistic)
        held += found.low <= truth <= found.high
    assert 0.92 <= held / 500 <= 0.98


def test_a_third_variable_is_held_equal():
    rng = np.random.default_rng(1)
    common = rng.normal(size=400)
    x, y = common + 0.5 * rng.normal(size=400), common + 0.5 * rng.normal(size=400)
    assert spearman(x.tolist(), y.tolist()).low > 0.6
    partial = spearman(x.tolist(), y.tolist(), common.tolist())
    ranks = np.array([np.argsort(np.argsort(values)) for values in (x, y, common)], dtype=float)
    of_x, of_y = (np.polyval(np.polyfit(ranks[2], of, 1), ranks[2]) - of for of in ranks[:2])
    assert partial.value == pytest.approx(np.corrcoef(of_x, of_y)[0, 1])
    assert not partial.excludes(0)


def test_what_has_no_correlation_gets_none():
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert spearman(values[:5], values[:5]) is None
    assert spearman(values, [1.0] * 6) is None
    assert spearman(values, values[::-1], values) is None
    assert spearman(values, values[::-1]) == (-1, None, None)
