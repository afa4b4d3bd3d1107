import re

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

from fake_results import BASELINES, KL, fake_result
from sae_nfm.report.figures import draw_figures
from sae_nfm.report.plotstyle import SERIES, spread

EVERY = ["kl_by_condition", "kl_vs_mse_reduction", "kl_by_position", "kl_by_document", "training_curves"]


def ink(path):
    """Share of the pixels that are not white."""
    return float((imread(path)[:, :, :3].min(axis=2) < 0.95).mean())


def test_all_figures_are_drawn_and_show_something(tmp_path):
    drawn = draw_figures(fake_result(), tmp_path / "figures")
    assert [path.name for path in drawn] == [f"{name}.png" for name in EVERY]
    for path in drawn:
        assert imread(path).shape[1] >= 1400
        assert 0.01 < ink(path) < 0.5


def test_every_condition_with_every_baseline_fits(tmp_path):
    result = fake_result(tuple(KL), tuple(BASELINES))
    assert len(result["conditions"]) > 60
    drawn = draw_figures(result, tmp_path)
    assert [path.stem for path in drawn] == EVERY
    assert all(max(imread(path).shape) < 4000 for path in drawn)


def test_a_study_without_nfm_has_no_reduction_figure(tmp_path):
    drawn = draw_figures(fake_result(("sae",)), tmp_path)
    assert [path.stem for path in drawn] == [EVERY[0], EVERY[2], EVERY[4]]


@pytest.mark.parametrize("missing", ["by_position", "ci95", "mse", "median"])
def test_missing_parts_leave_the_rest(tmp_path, missing):
    result = fake_result()
    for condition in result["conditions"].values():
        condition.pop(missing, None)
        condition["kl"].pop(missing, None)
    assert len(draw_figures(result, tmp_path)) >= 3


def test_unknown_names_and_empty_results_are_drawn_as_far_as_possible(tmp_path):
    result = fake_result(("novel",), ("strange",))
    assert [path.stem for path in draw_figures(result, tmp_path)] == [EVERY[0], EVERY[2], EVERY[4]]
    assert draw_figures({}, tmp_path) == []


def test_what_cannot_be_known_of_a_bin_is_left_open(tmp_path):
    result = fake_result()
    for difference in result["along_context"]["differences"]:
        difference["ci95"][0] = [None, None]  # one cluster
    result["curves"]["nfm"]["validation"][1][1] = None
    assert [path.stem for path in draw_figures(result, tmp_path)] == EVERY


def test_the_drawing_of_the_page_has_the_same_words_as_the_picture_and_a_dark_side(tmp_path):
    (drawn, *_) = draw_figures(fake_result(), tmp_path)
    svg = drawn.with_suffix(".svg").read_text(encoding="utf-8")
    assert re.findall(r">([^<>]*ε-random)<", svg).count("ε-random") == 4
    dark = svg.partition("@media (prefers-color-scheme: dark)")[2].partition("</style>")[0]
    used = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", svg.rpartition("</style>")[2]))
    swapped = set(re.findall(r": (#[0-9a-f]{6})\"\]", dark))
    assert used - swapped <= {"#cc79a7"}  # purple, which is seen on both
    assert svg == draw_figures(fake_result(), tmp_path)[0].with_suffix(".svg").read_text(encoding="utf-8")


def test_drawing_leaves_the_callers_matplotlib_settings_alone(tmp_path):
    before = dict(matplotlib.rcParams)
    draw_figures(fake_result(("sae",)), tmp_path)
    assert dict(matplotlib.rcParams) == before


def test_series_differ_without_colour():
    assert len({marker for _, marker, _ in SERIES}) == len(SERIES)


def test_labels_are_moved_apart_in_their_order():
    moved = spread([0.5, 0.5, 0.1, 0.52], 0.06)
    assert np.diff(sorted(moved)).min() >= 0.06 - 1e-6
    assert moved[2] == min(moved)
    assert moved[3] == max(moved)
