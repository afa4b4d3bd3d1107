"""Paired differences between studies: their intervals against theory, simulation and independent ones."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fake_results import swept_result, write_study
from sae_nfm.compare.changes import changes, settings_apart
from sae_nfm.compare.differences import difference, independent, jackknife, mean_difference
from sae_nfm.compare.documents import DocumentSums
from sae_nfm.compare.forest import draw_changes
from sae_nfm.compare.measures import KL_NFM, KL_SAE, L0, MARGINAL, PATHOLOGY_SAE, REDUCTION
from sae_nfm.compare.studies import read_studies
from sae_nfm.compare.varied import varied_settings
from sae_nfm.findings.statistics import Jackknife
from sae_nfm.report.estimates import Estimate

LEVELS = {"kl/sae": 0.2, "kl/nfm": 0.15, "kl/linear": 0.16, "kl/eps(sae)": 0.1}


class Text:
    """Documents of unequal lengths, some harder than others for every reconstruction."""

    def __init__(self, rng, num=150):
        self.rng = rng
        self.tokens = rng.integers(5, 200, num).astype(float)
        self.difficulty = rng.lognormal(0, 0.5, num)

    def sums(self, scale=1.0, scored_on="text"):
        """A study's sums; every mean per token is `scale` times its level, the documents apart."""
        sums = {
            key: self.tokens
            * level
            * scale
            * self.difficulty
            * self.rng.lognormal(-0.005, 0.1, len(self.tokens))
            for key, level in LEVELS.items()
        }
        return DocumentSums(scored_on, self.tokens, sums)


def own(found):
    """A study's own estimate, as its result has it."""
    return jackknife(found.value, found.without)


MEASURES = (KL_SAE, KL_NFM, PATHOLOGY_SAE, REDUCTION, MARGINAL)


def with_sums(study, sums):
    """The study with these sums, and with what they say of each measure."""
    values = {m.name: own(m.by_document(sums)) for m in MEASURES}
    return study._replace(documents=sums, values=study.values | values)


@pytest.fixture
def two(studies_of):
    """Two studies of the same documents that differ in one setting."""
    studies, varied = studies_of([swept_result(layer=layer) for layer in (2, 3)])
    text = Text(np.random.default_rng(0))
    return [
        with_sums(study, text.sums(scale)) for study, scale in zip(studies, (1, 0.95), strict=True)
    ], varied


def test_the_interval_is_the_one_that_studies_make_of_their_own():
    without = np.random.default_rng(0).normal(1.3, 0.1, 40)
    ours, theirs = jackknife(1.3, without), Jackknife.of(1.3, without)
    assert ours == pytest.approx((theirs.value, *theirs.ci95))


@pytest.mark.parametrize("measure", [KL_SAE, KL_NFM])
def test_of_one_setting_the_paired_interval_is_narrower_by_far(two, measure):
    pair = tuple(two[0])
    paired, alone = difference(measure, pair), independent(measure, pair)
    assert paired.paired
    assert paired.size.value == pytest.approx(alone.value)
    assert paired.size.high - paired.size.low < 0.5 * (alone.high - alone.low)
    assert paired.size.excludes(0)
    assert not alone.excludes(0)


def test_other_documents_are_compared_by_independent_intervals(two):
    before, after = two[0]
    elsewhere = after._replace(documents=after.documents._replace(scored_on="another text"))
    for other in (elsewhere, after._replace(documents=None)):
        found = difference(KL_NFM, (before, other))
        assert not found.paired
        assert found.size == independent(KL_NFM, (before, other))


def test_mover_is_pythagoras_where_intervals_are_symmetric(two):
    before, after = (
        study._replace(values={KL_NFM.name: Estimate(value, value - half, value + half)})
        for study, value, half in zip(two[0], (0.2, 0.5), (0.03, 0.04), strict=True)
    )
    assert independent(KL_NFM, (before, after)) == pytest.approx((0.3, 0.25, 0.35))


def test_what_is_no_matter_of_documents_or_was_not_measured_is_said(two):
    before, after = two[0]
    assert difference(L0, (before, after)).size == (0, None, None)
    assert difference(KL_NFM, (before, after._replace(values=after.values | {KL_NFM.name: None}))) is None


@pytest.mark.parametrize("measure", [KL_NFM, REDUCTION])
def test_95_percent_intervals_of_paired_differences_cover_95_percent(two, measure):
    """The truth: reductions are equal, and one study's KL is 5% below the other's."""
    rng = np.random.default_rng(7)
    truth = {KL_NFM: -0.05 * LEVELS["kl/nfm"] * math.exp(0.5**2 / 2), REDUCTION: 0.0}[measure]
    held, draws = 0, 400
    for _ in range(draws):
        text = Text(rng)
        pair = tuple(
            with_sums(study, text.sums(scale)) for study, scale in zip(two[0], (1, 0.95), strict=True)
        )
        size = difference(measure, pair).size
        held += not size.excludes(truth)
    assert 0.92 <= held / draws <= 0.98


def test_the_mean_over_pairs_leaves_a_document_out_of_all_of_them_at_once(two):
    """Twice the same pair knows no more than once: independent pairs would be narrower by √2."""
    pair = tuple(two[0])
    once, twice = mean_difference(KL_NFM, [pair]), mean_difference(KL_NFM, [pair, pair])
    assert twice.size == pytest.approx(once.size)
    assert twice.paired
    elsewhere = tuple(s._replace(documents=s.documents._replace(scored_on="another")) for s in pair)
    mixed = mean_difference(KL_NFM, [pair, elsewhere])
    assert mixed.paired
    assert mixed.size == pytest.approx(once.size)


def test_changes_are_of_one_setting_each_and_seeds_pair_with_seeds(studies_of):
    grid = [swept_result(layer=layer, k=k, seed=s) for layer in (0, 2, 10) for k in (8, 16) for s in (0, 1)]
    found = changes(*studies_of(grid))
    assert [(change.name, len(change.pairs)) for change in found] == [
        ("layer 0 → 2", 4), ("layer 2 → 10", 4), ("k 8 → 16", 6)
    ]  # fmt: skip
    for change in found:
        for before, after in change.pairs:
            apart = {key for key in ("layer", "sae.k", "seed") if before.setting(key) != after.setting(key)}
            assert apart == {change.setting}


def test_options_are_held_against_the_one_with_an_nfm_and_ablations_against_none(studies_of):
    (change,) = changes(*studies_of([swept_result(nfm=nfm) for nfm in ("none", "full")]))
    assert change.name == "nfm full → none"
    ablated = [swept_result() for _ in range(3)]
    for result, ablation in zip(ablated, ("bias_only", "none", "order_3"), strict=True):
        result["choices"]["ablation"] = ablation
    assert [change.name for change in changes(*studies_of(ablated))] == [
        "ablation none → bias_only", "ablation none → order_3"
    ]  # fmt: skip


def test_settings_that_go_together_are_one_change(studies_of):
    studies, varied = studies_of([swept_result(k=k, d_sae=32 * k) for k in (8, 16)])
    assert settings_apart(studies, varied) == [["sae.d_sae", "sae.k"]]
    assert [change.name for change in changes(studies, varied)] == ["d_sae 256 → 512 (with k)"]


def test_studies_that_differ_in_more_than_a_setting_have_no_change(studies_of):
    searched = [swept_result(layer=layer, k=k) for layer, k in ((0, 8), (1, 16), (0, 32), (2, 8), (3, 4))]
    found = changes(*studies_of(searched))
    assert [(c.name, len(c.pairs)) for c in found] == []


def write_documents(folder, result, scored_on="text", scale=1.0):
    """Sums of two documents beside a result, of the KL that it has."""
    columns = {"document": [3, 7], "tokens": [10, 30]}
    for name, entry in result["conditions"].items():
        columns[f"kl/{name}"] = [entry["kl"]["mean"] * scale * tokens for tokens in (10, 30)]
        columns[f"mse/{name}"] = [entry["mse"] * scale * tokens for tokens in (10, 30)]
    pq.write_table(
        pa.table(columns).replace_schema_metadata({"scored_on": scored_on}), folder / "documents.parquet"
    )


def test_sums_are_read_beside_a_result_and_make_its_figures(tmp_path):
    result = swept_result()
    write_documents(write_study(tmp_path / "a", result), result)
    (study,), _ = read_studies([tmp_path])
    assert study.documents.scored_on == "text"
    assert study.documents.tokens.tolist() == [10, 30]
    kl = {name: entry["kl"]["mean"] for name, entry in result["conditions"].items()}
    for measure, value in (
        (KL_SAE, kl["sae"]),
        (KL_NFM, kl["sae_nfm"]),
        (PATHOLOGY_SAE, kl["sae"] / kl["eps(sae)"]),
        (REDUCTION, 1 - kl["sae_nfm"] / kl["sae"]),
        (MARGINAL, 1 - kl["sae_nfm"] / kl["sae_linear"]),
    ):
        assert measure.by_document(study.documents).value == pytest.approx(value)


def test_sums_of_another_evaluation_or_damaged_ones_are_left_aside_with_a_warning(tmp_path):
    result = swept_result()
    write_documents(write_study(tmp_path / "stale", result), result, scale=1.01)
    cut = write_study(tmp_path / "cut", result)
    write_documents(cut, result)
    whole = (cut / "documents.parquet").read_bytes()
    (cut / "documents.parquet").write_bytes(whole[: len(whole) // 2])
    studies, problems = read_studies([tmp_path])
    assert problems == []
    for study, reason in zip(studies, ("", "its KL of the sae is"), strict=True):
        assert study.documents is None
        assert study.warnings[-1].startswith("documents.parquet is left aside: ")
        assert reason in study.warnings[-1]
    assert json.loads((cut / "result.json").read_text())["warnings"] == []
    assert varied_settings(studies) == []


def test_the_forest_has_a_row_for_each_step_and_a_tick_for_each_pair(studies_of):
    studies, varied = studies_of([swept_result(layer=i, k=k) for i in (0, 1) for k in (8, 16, 32)])
    found = changes(studies, varied)
    axes = draw_changes(found).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "layer 0 → 1", "k 8 → 16", "k 16 → 32"
    ]  # fmt: skip
    ticks = [line.get_xdata() for line in axes.lines if line.get_marker() == "|"]
    expected = [[difference(KL_SAE, pair).size.value for pair in change.pairs] for change in found]
    assert [list(values) for values in ticks] == expected
    assert [len(values) for values in ticks] == [3, 2, 2]
    means = [line for line in axes.lines if line.get_marker() not in ("|", "None")]
    assert [line.get_xdata()[0] for line in means] == [change.of(KL_SAE).size.value for change in found]
    assert {line.get_markerfacecolor() for line in means} == {"white"}  # no documents in common
