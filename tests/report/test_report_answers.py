"""The sentences that answer a reader's questions: each follows the numbers, and says nothing they do not."""

import pytest

from fake_results import around, fake_result
from sae_nfm.report.answers import (
    by_document,
    by_position,
    compared,
    dictionary,
    precision,
    training,
    worst,
)


def changed(result, *path, to):
    """The result with another value at a path."""
    *parents, last = path
    node = result
    for key in parents:
        node = node[key]
    node[last] = to
    return result


def test_the_worst_condition_and_the_worst_reconstruction():
    assert worst(fake_result()) == (
        "The worst of the 8 conditions is SAE, at 2.211 nats/token, the best SAE + NFM, at 1.550 nats/token."
    )
    result = fake_result(("sae", "sae_nfm", "zero"))  # an ablation is none
    result["conditions"]["eps(sae)"]["kl"] |= {"mean": 3.0, "ci95": [2.9, 3.1]}
    assert worst(result) == (
        "The worst of the 4 conditions is SAE: ε-random, at 3.000 nats/token; the worst reconstruction is "
        "SAE, at 2.211 nats/token, the best SAE + NFM, at 1.550 nats/token."
    )
    assert worst(fake_result(("sae",), ())) is None


def test_how_well_the_figures_are_known():
    result = changed(fake_result(), "reduction", to={"value": 0.3, "ci95": [0.28, 0.32]})
    assert precision(result) == (
        "From 20,000 positions of 500 documents, the SAE's KL is known to ±2%, and what the NFM takes off "
        "it to ±2 percentage points: less than that could not be told from nothing."
    )
    assert precision(fake_result(("sae",))).endswith("the SAE's KL is known to ±2%.")
    del result["conditions"]["sae"]["kl"]["ci95"]
    assert precision(result) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            (0.05, 0.01, 0.09),
            "the share grows along the block, by 5.0 (95% interval 1.0 to 9.0) percentage points.",
        ),
        (
            (-0.05, -0.09, -0.01),
            "the share falls along the block, by 5.0 (95% interval 1.0 to 9.0) percentage points.",
        ),
        (
            (0.01, -0.02, 0.04),
            "no change along the block beyond chance, 1.0 (95% interval -2.0 to 4.0) percentage points.",
        ),
    ],
)
def test_whether_the_gain_depends_on_the_position(change, said):
    value, low, high = change
    found = {"value": value, "ci95": [low, high]}
    sentence = by_position(changed(fake_result(), "along_context", "reduction", "change", to=found))
    assert sentence.startswith(
        "The NFM takes off 32.4% (95% interval 29.1 to 35.6) of the SAE's KL at positions"
    )
    assert sentence.endswith(said)
    assert by_position(fake_result(("sae",))) is None


def test_whether_the_gain_is_in_few_documents():
    over_sae, over_linear = by_document(fake_result())
    assert over_sae == (
        "The KL of SAE + NFM is below that of SAE in 94% of the documents (and above it at 31% of the "
        "tokens); the tenth of the documents where it falls most, 15% of the tokens, has 22% of the whole "
        "fall."
    )
    assert (
        "below that of SAE + linear part in 94% of the documents;" in over_linear
    )  # tokens were not counted
    result = changed(fake_result(), "across_documents", 0, "top_tenth", "fall", to=None)
    assert by_document(result)[0].endswith(
        "(and above it at 31% of the tokens), but in all it does not fall."
    )
    changed(result, "made_worse", "sae_nfm vs sae", "fraction", to=0.0)  # nothing changed
    changed(result, "across_documents", 0, "lower", to=0.0)
    assert "in 0% of the documents (and above it at 0% of the tokens)" in by_document(result)[0]


def test_how_good_the_sae_is():
    assert dictionary(fake_result()) == (
        "On the test documents the topk SAE explains 81.0% of the variance of the activations; 32 of its "
        "1,024 latents are active per token (L0); 2.0% are dead, active at none of the scored tokens."
    )
    assert dictionary({}) is None


def test_whether_each_part_was_trained_to_its_end():
    result = fake_result()
    result["curves"]["nfm"] |= {"flat": False, "late_change": 0.25}
    result["validation"]["nfm"]["best_step"] = 100
    sae, nfm = training(result)
    assert sae == (
        "sae: its explained variance on validation documents went from 0.3 to 0.81 in 200,000 tokens; it was "
        "flat by then, its last quarter moved it by 2% of its range."
    )
    assert nfm.endswith(
        "it was not flat by then, its last quarter moved it by 25% of its range; the weights kept are those "
        "of step 100 of 200, the best."
    )


def test_the_end_of_a_curve_is_what_was_measured():
    result = fake_result()
    result["curves"]["sae"] |= {"validation": [[0, 0.3], [100, 0.7], [200, 0.71]], "late_from": 100}
    assert "flat by then, its last 50% moved it by 2% of its range" in training(result)[0]
    del result["curves"]["sae"]["late_from"]  # of an older study
    assert "flat by then, its end moved it by 2% of its range" in training(result)[0]


def test_a_test_in_words():
    result = fake_result()
    own, _, against_sae = result["tests"]
    assert compared(result, own).startswith(
        "The KL of SAE is above that of its own ε-random baseline by 1.468 ("
    )
    assert compared(result, against_sae).startswith("The KL of SAE + NFM is below that of SAE by 0.66")
    assert compared(result, against_sae).endswith(" nats/token.")
    by_chance = against_sae | {"difference": around(0.001, 4), "p_holm": 0.4}
    assert "does not differ from that of SAE beyond chance: 0.0010 (95% interval" in compared(
        result, by_chance
    )
    assert compared(result, {"a": "sae", "b": "sae_nfm"}) is None
