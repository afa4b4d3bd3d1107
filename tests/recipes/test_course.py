"""Which parts a stage trains: of the study's own dictionary, and of controls that lack some."""

import pytest

from sae_nfm.recipes.course import OWN, Candidate, Step

SAE, NFM = frozenset({"sae"}), frozenset({"linear", "interaction"})


@pytest.mark.parametrize(
    ("name", "how", "there", "trained"),
    [
        (OWN, "tune", SAE | NFM, NFM),
        (OWN, "tune", SAE, frozenset()),  # without an NFM, what tunes one is no stage
        ("linear_alone", "tune", SAE | {"linear"}, {"linear"}),
        ("sae_alone", "tune", SAE, SAE),  # as long, for the same
        ("sae_alone", "begin", SAE, SAE),
        ("sae_alone", "fit", SAE, frozenset()),
    ],
)
def test_a_stage_trains_what_there_is_of_its_parts(name, how, there, trained):
    step = Step("stage", how, NFM, learning=None)
    assert step.trained(Candidate(name, frozenset(there))) == trained
