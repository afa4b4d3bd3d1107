"""What the page and the sentences say of the studies: where they are from, which is best, which are small."""

import csv

import pytest

from fake_results import swept_result, write_study
from sae_nfm.compare.__main__ import main
from sae_nfm.compare.about import facts, shared_command
from sae_nfm.compare.changes import changes
from sae_nfm.compare.figures import draw_comparison
from sae_nfm.compare.measures import KL_NFM, KL_SAE
from sae_nfm.compare.over_settings import draw_over_setting
from sae_nfm.compare.ranking import ranking
from sae_nfm.compare.sentences import sentences
from sae_nfm.report.plotstyle import SERIES


def grid(layers=(1, 2), ks=(8, 16, 32)):
    for layer in layers:
        for k in ks:
            yield swept_result(layer=layer, k=k) | {
                "command": f"python -m sae_nfm experiment=quickstart layer={layer} sae.k={k}"
            }


@pytest.fixture
def written(tmp_path):
    """The page of a comparison of results."""

    def write(results):
        for i, result in enumerate(results):
            write_study(tmp_path / f"job-{i}", result)
        assert main([str(tmp_path)]) == 0
        return (tmp_path / "compare.html").read_text(encoding="utf-8")

    return write


def test_model_site_corpus_and_one_command_for_all_are_on_the_page(written):
    page = written(grid())
    assert "docs_lm · layer 3 resid_post · context 128 · 20,000 positions per condition" in page
    assert "python -m sae_nfm -m experiment=quickstart layer=1,2 sae.k=8,16,32</pre>" in page


def test_what_differs_is_counted_and_named_where_few_differ(studies_of):
    studies, _ = studies_of(grid())
    first, second, *_ = (study.about for study in studies)
    assert facts([first, second._replace(model="gpt2", documents=40)])[0] == "2 models (docs_lm, gpt2)"
    assert "40 to 500 documents" in facts([first, second._replace(documents=40)])
    many = [first._replace(site=f"layer {i}") for i in range(5)]
    assert "5 sites" in facts(many)


@pytest.mark.parametrize(
    ("given", "shared"),
    [
        (["a=1 b=2"], "a=1 b=2"),
        (["a=1 b=2", "a=2 b=2"], "-m a=1,2 b=2"),
        (["a=1 b=1", "a=2 b=2"], None),  # a sweep would be of four
        (["a=1", "a=1 b=2"], None),
        (["a=1", "a=1"], None),
        (["a=[x,y]", "a=z"], None),  # a sweep would read three values
        (["'a=[x,y]' b=1", "'a=[x,y]' b=2"], "-m 'a=[x,y]' b=1,2"),
    ],
)
def test_studies_share_a_command_where_a_sweep_over_it_is_they(given, shared):
    found = shared_command([f"python -m sae_nfm {overrides}" for overrides in given])
    assert found == (shared and f"python -m sae_nfm {shared}")


def test_a_command_of_something_else_is_not_ours_to_share():
    assert shared_command(["torchrun study.py a=1", "torchrun study.py a=2"]) is None
    assert shared_command(["", ""]) is None


def test_without_a_shared_command_each_is_there_folded(written):
    page = written(list(grid())[:5])
    assert "<summary>Commands</summary>" in page
    assert page.count("python -m sae_nfm experiment=quickstart layer=") == 5


def test_small_studies_are_marked_where_others_are_not(written):
    results = list(grid())
    results[0]["documents"] = 150
    page = written(results)
    assert "1 of 6 studies, marked, are of fewer than 200 documents" in page
    assert page.count('class="few">few documents') == 1


def test_where_all_are_small_that_is_said_once(written):
    page = written(result | {"documents": 150} for result in grid())
    assert "Every study is of fewer than 200 documents" in page
    assert 'class="few">' not in page


def test_best_and_worst_are_named(studies_of):
    studies, varied = studies_of(grid())
    gains = {(study.values["reduction"], study.setting("layer"), study.setting("sae.k")) for study in studies}
    (_, *worst), *_, (_, *best) = sorted(gains)
    headline, least, *_ = sentences(studies, varied)
    assert headline.startswith("Over 6 studies, the NFM takes most off the SAE's next-token KL with ")
    assert f"with layer={best[0]}, k={best[1]} (" in headline
    assert f"least with layer={worst[0]}, k={worst[1]} (" in headline
    first = min(studies, key=lambda study: study.values[KL_NFM.name])
    assert f"The least KL of SAE + NFM is that of layer={first.setting('layer')}, " in least


def test_studies_that_differ_in_no_setting_are_named_by_folder(studies_of):
    studies, varied = studies_of([swept_result(), swept_result()])
    assert varied == []
    (least,) = (said for said in sentences(studies, varied) if said.startswith("The least KL"))
    assert least.startswith("The least KL of SAE + NFM is that of job-000 (")
    assert "; job-001, the next, is not apart from it beyond chance" in least


def test_kls_of_several_models_sites_or_texts_are_not_ranked(studies_of):
    studies, _ = studies_of(grid())
    found = ranking(studies)
    assert found.measure is KL_NFM
    assert len(found.above_best) == 5
    assert all(above.size.value >= 0 for above in found.above_best.values())
    for change in ({"model": "gpt2"}, {"site": "layer 1 mlp_out"}, {"corpus": "text"}, {"context": 64}):
        others = [studies[0]._replace(about=studies[0].about._replace(**change)), *studies[1:]]
        assert ranking(others) is None
    assert ranking(studies[:1]) is None


@pytest.mark.parametrize(
    "key",
    [
        *("corpus.min_chars", "evaluation.corpus.path", "evaluation.context", "skip_positions"),
        *("evaluation.bos", "evaluation.replace", "evaluation.position"),
    ],
)
def test_nor_are_those_of_other_tokens_of_a_text_of_that_name(studies_of, key):
    results = [swept_result(k=k) for k in (8, 16)]
    *above, last = key.split(".")
    nodes = [result["settings"] for result in results]
    for name in above:
        nodes = [node.setdefault(name, {}) for node in nodes]
    for values, ranked in (((0, 1), False), ((1, 1), True)):
        for node, value in zip(nodes, values, strict=True):
            node[last] = value
        assert (ranking(studies_of(results)[0]) is not None) == ranked


def test_those_that_are_older_than_a_setting_are_ranked_with_those_where_it_is_null(studies_of):
    results = [swept_result(k=k) for k in (8, 16)]
    results[0]["settings"]["evaluation"] |= {"corpus": None, "context": None}
    assert ranking(studies_of(results)[0]) is not None


def test_another_text_that_was_scored_is_named(studies_of):
    results = [swept_result() for _ in range(3)]
    for result, scored in zip(results, ("null", "tinystories", "text"), strict=True):
        result["choices"] |= {"corpus": "docstrings", "corpus@evaluation.corpus": scored}
    results[2]["settings"]["evaluation"]["corpus"] = {"path": "texts/hard.txt"}
    studies, _ = studies_of(results)
    named = ["docstrings", "docstrings (scored on tinystories)", "docstrings (scored on text hard.txt)"]
    assert [study.about.corpus for study in studies] == named
    assert ranking(studies[:2]) is None


def test_without_an_nfm_the_saes_are_ranked(studies_of):
    studies, _ = studies_of([swept_result(k=k, nfm="none") for k in (8, 16)])
    assert ranking(studies).measure is KL_SAE


def test_differences_without_common_documents_are_called_independent(written, tmp_path):
    page = written(grid())
    assert "without sums over the same documents they are compared by independent intervals" in page
    assert '<span class="interval">independent</span>' in page
    rows = list(csv.DictReader((tmp_path / "compare_differences.csv").open(encoding="utf-8")))
    steps = [row for row in rows if not row["study_before"]]
    assert [(row["setting"], row["before"], row["after"], row["pairs"]) for row in steps] == [
        ("layer", "1", "2", "3"), ("sae.k", "8", "16", "2"), ("sae.k", "16", "32", "2")
    ]  # fmt: skip
    assert len(rows) - len(steps) == 3 + 2 + 2
    assert {row["kl_sae_nfm_paired"] for row in rows} == {"False"}
    (mean, *pairs) = [float(row["kl_sae_nfm"]) for row in rows[:4]]
    assert mean == pytest.approx(sum(pairs) / 3)


def test_measures_that_tell_no_study_from_another_have_no_column(written):
    page = written(grid())
    assert ">KL of SAE + NFM</button>" in page
    assert ">of codes_bound</button>" not in page
    assert ">SAE</button>" not in page  # of one family
    assert ">L0</button>" not in page  # it is k


def test_one_study_has_no_axis_to_draw(studies_of, tmp_path):
    studies, varied = studies_of([swept_result()])
    assert draw_comparison(studies, varied, changes(studies, varied), tmp_path) == []


def test_series_stand_beside_each_other(studies_of):
    studies, varied = studies_of(grid(layers=(1, 2, 3, 4)))
    figure = draw_over_setting(studies, "sae.k", varied)
    for axes in figure.axes:
        points = [line for line in axes.lines if line.get_marker() not in ("None", None, "")]
        figure.canvas.draw()
        places = [tuple(line.get_transform().transform(line.get_xydata()[0]).round(3)) for line in points]
        at_8 = [x for line, (x, _) in zip(points, places, strict=True) if line.get_xdata()[0] == 8]
        assert len(set(at_8)) == len(at_8) == 4
        low, high = axes.get_window_extent().intervalx
        assert all(low <= x <= high for x, _ in places)


def test_no_interval_is_cut_and_no_panel_shows_what_all_have_in_common(studies_of):
    results = list(grid(layers=(1,)))
    for result in results:
        result["conditions"]["sae"] = results[0]["conditions"]["sae"]
    figure = draw_over_setting(studies_of(results)[0], "sae.k", ["sae.k"])
    titles = [axes.get_title() for axes in figure.axes if axes.axison]
    assert "KL of SAE + NFM, nats/token" in titles
    assert "KL of SAE, nats/token" not in titles
    for axes in figure.axes:
        bottom, top = axes.get_ylim()
        ends = [y for bars in axes.collections for segment in bars.get_segments() for _, y in segment]
        assert all(bottom <= y <= top for y in ends)


def test_many_series_are_told_apart_by_the_first_setting_of_few_values(studies_of):
    results = [
        swept_result(layer=layer, k=k, d_sae=d) for layer in range(8) for k in (8, 16) for d in (64, 128)
    ]
    figure = draw_over_setting(*studies_of(results)[:1], "sae.d_sae", ["layer", "sae.k"])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["k=8", "k=16"]
    assert {line.get_color() for line in figure.axes[0].lines} == {SERIES[0][0], SERIES[1][0]}


def test_or_by_shades_of_which_the_legend_names_some_from_first_to_last(studies_of):
    studies, _ = studies_of([swept_result(layer=layer, k=k) for layer in range(10) for k in (8, 16)])
    figure = draw_over_setting(studies, "sae.k", ["layer", "sae.k"])
    assert len({line.get_color() for line in figure.axes[0].lines}) == 10
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(named) == 6
    assert (named[0], named[-1]) == ("layer=0", "layer=9")
