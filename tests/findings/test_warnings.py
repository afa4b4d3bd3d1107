"""What is warned of, and what is not."""

import pytest

from sae_nfm.findings.warnings import judged, late_change, warnings

FINE = {
    "documents": 300,
    "noise_floor": 1e-6,
    "marginal_interaction": {"against": "sae_linear", "absolute": {"value": 0.01, "ci95": [0.0, 0.02]}},
    "conditions": {
        "clean": {"role": "clean", "kl": {"mean": 0.0, "ci95": [0.0, 0.0]}},
        "sae": {"role": "sae", "kl": {"mean": 0.4, "ci95": [0.38, 0.42]}},
        "sae_nfm": {"role": "nfm", "kl": {"mean": 0.3, "ci95": [0.29, 0.31]}},
    },
}


def curve(*values):
    return {
        "watched": "explained_variance",
        "tokens_per_step": 1000,
        "loss": [],
        "validation": [[25 * step, value] for step, value in enumerate(values)],
    }


FLAT = {"sae": curve(0.1, 0.7, 0.78, 0.8, 0.81)}


def said(found=FINE, curves=FLAT):
    return warnings(found, curves, 5000, "float32")


def test_a_study_that_is_large_and_trained_to_the_end_has_no_warning():
    assert said() == []


def test_few_documents():
    assert said(FINE | {"documents": 199}) == [
        "eval_tokens=5000: from 199 documents; below 200, intervals over documents may be too narrow"
    ]
    assert said(FINE | {"documents": 200}) == []


def test_few_tokens():
    wide = FINE["conditions"] | {"sae": {"role": "sae", "kl": {"mean": 0.4, "ci95": [0.34, 0.46]}}}
    (warning,) = said(FINE | {"conditions": wide})
    assert warning == "eval_tokens=5000: KL(sae) is known to ±15% only; more tokens narrow that"


def test_where_nothing_is_spliced_no_kl_is_warned_of():
    alone = {name: FINE["conditions"]["clean"] | {"role": name} for name in ("clean", "identity")}
    assert said(FINE | {"conditions": alone, "marginal_interaction": None}) == []


@pytest.mark.parametrize(("floor", "warned"), [(None, False), (0.002, False), (-0.02, True)])
def test_noise(floor, warned):
    found = said(FINE | {"noise_floor": floor})
    assert bool(found) == warned
    if warned:
        assert "6.7% of KL(sae_nfm)" in found[0]


def test_interactions_that_surely_harm():
    def marginal(value, low, high):
        return FINE | {
            "marginal_interaction": {
                "against": "sae_linear",
                "absolute": {"value": value, "ci95": [low, high]},
            }
        }

    (warning,) = said(marginal(-0.02, -0.03, -0.01))
    assert warning == "the KL of the NFM is above that of sae_linear by 0.02 nats/token: interactions do harm"
    assert said(marginal(-0.02, -0.05, 0.01)) == []
    assert said(FINE | {"marginal_interaction": None}) == []


def test_what_was_not_trained_to_its_end():
    rising = curve(0.0, 0.2, 0.3, 0.4, 0.5)
    assert late_change(rising) == pytest.approx(0.2)
    assert late_change(curve(2.0, 1.0, 0.6, 0.5, 0.4)) == pytest.approx(0.1 / 1.6)  # a loss, which falls
    assert late_change(curve(0.3, 0.1, 0.2, 0.25, 0.32)) == pytest.approx(0.07 / 0.22)  # worse at first
    (warning,) = said(curves=FLAT | {"nfm": rising})
    assert warning == (
        "nfm: not trained to its end; the last quarter of its 100,000 tokens moved its explained variance "
        "by 20% of all that it moved"
    )
    found = judged(FLAT | {"nfm": rising, "solved": curve(0.1)})
    assert {name: each["flat"] for name, each in found.items()} == {"sae": True, "nfm": False, "solved": None}
    assert found["nfm"]["late_change"] == late_change(rising)
    assert found["nfm"]["late_from"] == rising["validation"][-2][0]
    assert found["nfm"]["validation"] == rising["validation"]


@pytest.mark.parametrize(
    ("values", "late"),
    [((0.0, 0.3, 0.5), "50%"), ((0.0, 0.2, 0.3, 0.5), "33%"), ((0, 1, 2, 3, 4), "quarter")],
)
def test_the_share_that_is_measured_is_the_one_that_is_said(values, late):
    (warning,) = said(curves={"nfm": curve(*values)})
    assert f"; the last {late} of its {25 * (len(values) - 1)},000 tokens moved" in warning


@pytest.mark.parametrize("values", [(), (0.1,), (0.1, 0.5), (0.1, 0.1, 0.1, 0.1, 0.1), (0.1, None)])
def test_too_few_validations_or_no_change_say_nothing(values):
    assert late_change(curve(*values)) is None
