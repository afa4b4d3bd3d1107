import json

import numpy as np
import pytest
from matplotlib.image import imread

from fake_results import around, fake_result
from sae_nfm.report.attributed import named_pairs, read, token_text
from sae_nfm.report.attribution import attribution_part
from sae_nfm.report.attribution_figures import draw_attribution
from sae_nfm.report.html import write_report

NAMES = ["attribution_network", "attribution_curves", "attribution_against_ablation", "attribution_error"]
BAD = "<b>x</b>"


def named_pair(i, j, share, p, together=40):
    value = around(0.02 * share, 0.3)
    return {"latents": [i, j], "taken_off": value, "share_of_gain": around(share, 0.3), "together": together,
            "p": p, "p_holm": p}  # fmt: skip


def fake_found():
    rng = np.random.default_rng(0)
    sizes = [2, 10, 100]
    curve = {name: [around(scale * size**0.5) for size in sizes]
             for name, scale in (("taken_away", 0.1), ("given_alone", -0.03))}  # fmt: skip
    x = rng.normal(0, 0.01, 30)
    singles = {"attributed": x.tolist()} | {
        name: (x + rng.normal(0, 0.002, 30)).tolist() for name in ("both_ways", "left_out", "given")
    }
    gap = {"sum": 20.0001, "change": 20.0, "gap": 5e-6}
    return {
        "schema": 1,
        "positions": {"choosing": 500, "verifying": 500},
        "documents": {"choosing": 20, "verifying": 21},
        "gain": around(0.02),
        "made_of": {
            "constant": {"value": around(-0.0001), "share": around(-0.005)},
            "pairs": {"value": around(0.0201), "share": around(1.005)},
        },
        "completeness": {"interactions": gap, "error": gap | {"sum": 21.0, "gap": 0.05}},
        "error": {
            "linear": {"value": around(0.001), "share": around(-0.02)},
            "interactions": {"value": around(0.02), "share": around(0.27)},
            "rest": {"value": around(0.06), "share": around(0.75)},
        },
        "named": [named_pair(3, 8, 0.001, 0.4), named_pair(3, 12, 0.02, 0.001), named_pair(1, 2, 0.01, 0.01)],
        "harmful": [named_pair(8, 40, -0.03, 0.002)],
        "curves": {
            "pairs": 10_000,
            "match": {"size": 1.0, "together": 1.0},
            "orders": {
                name: {"sizes": sizes, **curve} for name in ("attribution", "matched", "size", "random")
            },
            "necessity": {
                "size": 100,
                "taken_away": around(0.9, 0.1),
                "best_control": "matched",
                "of_best_control": around(0.3, 0.1),
                "times_best_control": around(3.0, 0.1),
            },
        },
        "single_pairs": {
            "pairs": 30,
            "spearman": {"both_ways": 0.987, "left_out": 0.8, "given": None},
            **singles,
        },
        "further_seeds": [
            {"seed": 7, "pairs": 900, "spearman": 0.06, "named_in_common": 1, "top_hundredth_in_common": 0.3,
             "by_chance": 0.01}
        ],
    }  # fmt: skip


def fake_words():
    tokens = ["\n", BAD, " the", " ", ""]
    context = {
        "block": 4,
        "peak": 1,
        "tokens": tokens,
        "taken_off": [0.0, 0.2, -0.05, 0.0, 0.0],
        "product": [0.0, 3.0, 2.0, 0.0, 0.0],
    }
    active = {"block": 5, "peak": 2, "tokens": tokens, "active": [0.0, 0.0, 2.5, 1.0, 0.0]}
    moves = {
        "up": [{"token": BAD, "probability": 0.123, "logit": 0.4}],
        "down": [{"token": " a", "probability": -0.042, "logit": -0.4}],
    }
    kl = {"sae": [0.0, 0.5, 0.4, 0.3, 0.2], "sae_linear": [0.0, 0.4, 0.3, 0.3, 0.2],
          "sae_nfm": [0.0, 0.1, 0.5, 0.3, 0.1]}  # fmt: skip
    return {
        "pairs": [
            {"latents": pair, "moves": moves, "contexts": {"most": [context] * 5, "any": [context] * 2}}
            for pair in ([3, 8], [3, 12], [1, 2], [8, 40])
        ],
        "latents": {str(latent): [active] * 2 for latent in (1, 2, 3, 8, 12, 40)},
        "passages": [
            {"why": why, "block": 9, "tokens": tokens, "scored": [0, 1, 1, 1, 1], "kl": kl}
            for why in ("repaired", "harmed", "any")
        ],
    }


def write_attribution(folder, found=None, words=None):
    """A study's folder as the attribution leaves it."""
    (folder / "attribution").mkdir(parents=True)
    (folder / "attribution.json").write_text(json.dumps(found or fake_found()), encoding="utf-8")
    shown = json.dumps(words or fake_words(), ensure_ascii=False)
    (folder / "attribution" / "contexts.json").write_text(shown, encoding="utf-8")
    return folder


def report(folder):
    return write_report(fake_result(), folder).read_text(encoding="utf-8")


def test_the_report_says_what_the_gain_is_due_to(tmp_path):
    text = report(write_attribution(tmp_path))
    assert "Which interactions the gain is due to" in text
    assert (
        "named the 3 pairs of latents that most surely lower the KL; on the other half 2 of them lower"
        in text
    )
    assert "and 1 of 1 named as raising it raises it" in text
    assert "Without the 100 pairs that take most off on the half that chose, 1%" in text
    assert (
        "90.0% (95% interval 81.0 to 99.0) of what its interactions gain on the other; without as many"
        in text
    )
    assert "3.0 (95% interval 2.7 to 3.3) times the second" in text
    assert "-30.0% (95% interval -30.3 to -29.7) of the gain, which is worse than no interactions" in text
    assert "off by less than 0.01%" in text
    assert "a rank correlation of 0.99 (Spearman)" in text
    assert "an NFM of seed 7" in text
    assert "30% of the top 1% of pairs are the same (1% by chance), and 1 of the 3 named" in text
    assert '<strong><a href="features.html#pair-3-12">3 × 12</a></strong>' in text
    assert '<td class="name"><a href="features.html#pair-3-8">3 × 8</a>' in text
    assert BAD not in text
    assert "&lt;b&gt;x&lt;/b&gt;" in text
    assert text.count('src="data:image/svg+xml;base64,') == 9


def test_a_control_that_may_take_away_nothing_is_no_measure_of_the_loss(tmp_path):
    found = fake_found()
    found["curves"]["necessity"]["times_best_control"] = None
    text = attribution_part(read(write_attribution(tmp_path, found)), [])
    assert (
        "matched to them in size and in how often they occur, 30.0% (95% interval 27.0 to 33.0). Alone"
        in text
    )
    assert "times the second" not in text


def test_where_not_all_pairs_are_counted_the_hundredth_is_of_those_that_are(tmp_path):
    found = fake_found() | {"settings": {"busiest": 2048}, "estimated": {"pairs": 90, "error": 0.1}}
    text = attribution_part(read(write_attribution(tmp_path, found)), [])
    assert "1% of those that occur among the 2,048 busiest latents, the NFM loses" in text


def test_a_study_without_attribution_has_the_report_it_had(tmp_path):
    without = report(tmp_path / "without")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "attribution.json").write_text("{}")  # no contexts yet
    assert report(tmp_path / "half") == without
    assert "features.html" not in without
    assert not (tmp_path / "without" / "features.html").exists()


def test_pairs_that_hold_come_first_and_by_share(tmp_path):
    pairs = named_pairs(read(write_attribution(tmp_path)))
    assert [pair.name for pair in pairs] == ["3 × 12", "1 × 2", "8 × 40", "3 × 8"]
    assert [pair.holds for pair in pairs] == [True, True, True, False]
    assert [pair.does for pair in pairs] == ["lowers", "lowers", "raises", "lowers"]


def test_every_figure_is_drawn_and_fits(tmp_path):
    drawn = draw_attribution(read(write_attribution(tmp_path)), tmp_path / "figures")
    assert [one.path.stem for one in drawn] == NAMES
    for one in drawn:
        picture = imread(one.path)
        assert 1400 <= picture.shape[1] < 1500
        assert picture.shape[0] < 1500
        assert 0.005 < (picture[:, :, :3].min(axis=2) < 0.95).mean() < 0.5


def test_the_same_network_is_drawn_twice(tmp_path):
    attributed = read(write_attribution(tmp_path))
    one, two = (draw_attribution(attributed, tmp_path / name)[0].path.read_bytes() for name in "ab")
    assert one == two


@pytest.mark.parametrize(
    ("missing", "figures"),
    [("error", NAMES[:3]), ("shares", NAMES[2:]), ("singles", [*NAMES[:2], NAMES[3]]), ("gap", NAMES)],
)
def test_what_is_unknown_is_left_out(tmp_path, missing, figures):
    found = fake_found()
    if missing == "error":
        del found["error"]
    if missing == "shares":  # the gain may be 0
        for pair in found["named"] + found["harmful"]:
            pair["share_of_gain"] = None
        for order in found["curves"]["orders"].values():
            order |= {"taken_away": [None] * 3, "given_alone": [None] * 3}
        found["curves"]["necessity"] |= {"taken_away": None, "of_best_control": None}
        found["made_of"]["pairs"]["share"] = None
    if missing == "singles":
        none = {name: None for name in ("both_ways", "left_out", "given")}
        empty = {name: [] for name in ("attributed", *none)}
        found["single_pairs"] = {"pairs": 0, "spearman": none, **empty}
    if missing == "gap":
        found["completeness"]["interactions"]["gap"] = None
        found["curves"]["necessity"] = None
        found["further_seeds"][0]["spearman"] = None
    attributed = read(write_attribution(tmp_path, found))
    drawn = draw_attribution(attributed, tmp_path / "figures")
    assert [one.path.stem for one in drawn] == figures
    part = attribution_part(attributed, [])
    assert "None" not in part
    assert "nan" not in part
    assert ("Without the" in part) == (missing not in ("shares", "gap"))


def test_what_cannot_be_seen_of_a_token_is_shown():
    assert [token_text(token) for token in (" the", "\n\n", "", "a b")] == ["·the", "↵↵", "∅", "a·b"]
