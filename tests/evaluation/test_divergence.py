"""KL and its companions against scipy in float64, and at both ends of the scale."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr

from sae_nfm.evaluation import divergence as divergence_module
from sae_nfm.evaluation.divergence import Clean, divergence

VOCAB = 50


def logits_of(*shape, seed=0, spread=3.0):
    return torch.randn(*shape, VOCAB, generator=torch.Generator().manual_seed(seed)) * spread


@pytest.fixture
def tokens():
    return torch.randint(VOCAB, (4, 7), generator=torch.Generator().manual_seed(9))


def scipy_kl(clean, spliced):
    p, q = (np.exp(log_softmax(logits.double().numpy(), axis=-1)) for logits in (clean, spliced))
    return torch.from_numpy(rel_entr(p, q).sum(-1))


@pytest.mark.parametrize(
    ("dtype", "rtol", "atol"), [(torch.float32, 1e-5, 1e-6), (torch.float64, 1e-12, 1e-14)]
)
@pytest.mark.parametrize("distance", [1e-2, 1.0, 5.0])
def test_kl_agrees_with_scipy_in_float64(tokens, dtype, rtol, atol, distance):
    clean = logits_of(4, 7).to(dtype)
    spliced = clean + distance * logits_of(4, 7, seed=1).to(dtype)
    found = divergence(Clean.of(clean, tokens), spliced).kl
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), scipy_kl(clean, spliced), rtol=rtol, atol=atol)


def test_kl_is_of_clean_from_spliced_and_not_the_other_way_round(tokens):
    """P = (1/2, 1/2), Q = (1/4, 3/4): KL(P‖Q) = ½ log 2 + ½ log ⅔ = ½ log 4/3; KL(Q‖P) is another number."""
    clean = torch.tensor([[[0.5, 0.5]]]).log()
    spliced = torch.tensor([[[0.25, 0.75]]]).log()
    found = divergence(Clean.of(clean, torch.zeros(1, 1, dtype=torch.int64)), spliced).kl
    assert found.item() == pytest.approx(0.5 * np.log(4 / 3), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_kl_of_identical_logits_is_exactly_zero(tokens, dtype):
    clean = logits_of(4, 7).to(dtype)
    found = divergence(Clean.of(clean, tokens), clean.clone())
    assert found.kl.abs().max() == 0
    assert found.agreement.all()


def test_kl_of_identical_logits_is_exactly_zero_however_it_is_cut_into_slices(tokens, monkeypatch):
    clean = logits_of(4, 7)
    whole = divergence(Clean.of(clean, tokens), logits_of(4, 7, seed=1))
    for rows in (1, 3, 28):
        monkeypatch.setattr(divergence_module, "_CPU_ELEMENTS", rows * VOCAB)
        assert divergence(Clean.of(clean, tokens), clean.clone()).kl.abs().max() == 0
        sliced = divergence(Clean.of(clean, tokens), logits_of(4, 7, seed=1))
        for a, b in zip(sliced, whole, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("distance", [1e-7, 1e-6, 1e-5, 1e-4, 1e-3])
def test_near_zero_kl_is_right_up_to_rounding_and_not_negative_beyond_it(distance):
    tokens = torch.zeros(40, 50, dtype=torch.int64)
    clean = logits_of(40, 50)
    spliced = clean + distance * logits_of(40, 50, seed=1)
    found = divergence(Clean.of(clean, tokens), spliced).kl.double()
    rounding = 5e-7  # of a float32 log-probability of some nats
    assert found.min() > -rounding
    assert (found - scipy_kl(clean, spliced)).abs().max() < rounding


def test_a_shift_of_all_logits_is_no_divergence(tokens):
    clean = logits_of(4, 7).double()
    assert divergence(Clean.of(clean, tokens), clean + 100).kl.abs().max() < 1e-12


def test_a_huge_kl_is_not_capped():
    """Far above 18.4 nats, where adding 1e-8 to probabilities would stop it."""
    clean, spliced = torch.zeros(1, 1, VOCAB), torch.zeros(1, 1, VOCAB)
    clean[..., 3] = 200.0
    spliced[..., 4] = 300.0
    found = divergence(Clean.of(clean, torch.zeros(1, 1, dtype=torch.int64)), spliced)
    assert found.kl.item() == pytest.approx(300.0, rel=1e-6)
    assert scipy_kl(clean, spliced).item() == pytest.approx(300.0, rel=1e-6)


def test_a_token_that_only_the_spliced_run_excludes_costs_infinitely_much_and_no_nan():
    clean = torch.zeros(1, 1, VOCAB)
    spliced = clean.clone()
    spliced[..., 7] = -torch.inf
    kl = divergence(Clean.of(clean, torch.zeros(1, 1, dtype=torch.int64)), spliced).kl
    assert kl.item() == torch.inf


def test_half_precision_logits_are_measured_in_float32(tokens):
    clean, spliced = logits_of(4, 7).bfloat16(), logits_of(4, 7, seed=1).bfloat16()
    found = divergence(Clean.of(clean, tokens), spliced)
    assert found.kl.dtype == found.ce.dtype == torch.float32
    torch.testing.assert_close(found.kl.double(), scipy_kl(clean, spliced), rtol=1e-5, atol=1e-6)


def test_ce_is_that_of_the_next_token_under_the_spliced_run(tokens):
    clean, spliced = logits_of(4, 7), logits_of(4, 7, seed=1)
    found = divergence(Clean.of(clean, tokens), spliced).ce
    expected = torch.nn.functional.cross_entropy(
        spliced[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
    )
    torch.testing.assert_close(found[:, :-1].flatten(), expected)
    assert found[:, -1].abs().max() == 0


def test_agreement_is_of_the_most_likely_tokens(tokens):
    clean, spliced = logits_of(4, 7), logits_of(4, 7, seed=1)
    spliced[:2] = clean[:2] * 0.5
    found = divergence(Clean.of(clean, tokens), spliced).agreement
    assert torch.equal(found, clean.argmax(-1) == spliced.argmax(-1))
    assert found[:2].all()
    assert not found[2:].all()
