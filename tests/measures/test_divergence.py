"""KL and its companions against scipy in float64, and at both ends of the scale."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr
from scipy.stats import kendalltau

from sae_nfm.measures import divergence as divergence_module
from sae_nfm.measures import fused
from sae_nfm.measures.divergence import CORE, TOP_N, Clean, divergence

VOCAB = 50
ONE_TOKEN = torch.zeros(1, 1, dtype=torch.int64)


def logits_of(*shape, seed=0, spread=3.0):
    return torch.randn(*shape, VOCAB, generator=torch.Generator().manual_seed(seed)) * spread


@pytest.fixture
def tokens():
    return torch.randint(VOCAB, (4, 7), generator=torch.Generator().manual_seed(9))


def measured(clean, spliced, tokens, top_n=0):
    """Every measure by its name, [block, pos] each."""
    values = divergence(Clean.of(clean, tokens, top_n), spliced)
    return dict(zip((*CORE, *(TOP_N if top_n else ())), values, strict=True))


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
    found = measured(clean, spliced, tokens)["kl"]
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), scipy_kl(clean, spliced), rtol=rtol, atol=atol)


def test_kl_is_of_clean_from_spliced_and_not_the_other_way_round(tokens):
    """P = (1/2, 1/2), Q = (1/4, 3/4): KL(P‖Q) = ½ log 2 + ½ log ⅔ = ½ log 4/3; KL(Q‖P) is another number."""
    clean = torch.tensor([[[0.5, 0.5]]]).log()
    spliced = torch.tensor([[[0.25, 0.75]]]).log()
    found = measured(clean, spliced, ONE_TOKEN)["kl"]
    assert found.item() == pytest.approx(0.5 * np.log(4 / 3), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_kl_of_identical_logits_is_exactly_zero(tokens, dtype):
    clean = logits_of(4, 7).to(dtype)
    found = measured(clean, clean.clone(), tokens)
    assert found["kl"].abs().max() == 0
    assert (found["agreement"] == 1).all()


def test_kl_of_identical_logits_is_exactly_zero_however_it_is_cut_into_slices(tokens, monkeypatch):
    clean = logits_of(4, 7)
    whole = divergence(Clean.of(clean, tokens, 5), logits_of(4, 7, seed=1))
    for rows in (1, 3, 28):
        monkeypatch.setattr(divergence_module, "_CPU_ELEMENTS", rows * VOCAB)
        assert measured(clean, clean.clone(), tokens)["kl"].abs().max() == 0
        sliced = divergence(Clean.of(clean, tokens, 5), logits_of(4, 7, seed=1))
        torch.testing.assert_close(sliced, whole)


@pytest.mark.parametrize("distance", [1e-7, 1e-6, 1e-5, 1e-4, 1e-3])
def test_near_zero_kl_is_right_up_to_rounding_and_not_negative_beyond_it(distance):
    tokens = torch.zeros(40, 50, dtype=torch.int64)
    clean = logits_of(40, 50)
    spliced = clean + distance * logits_of(40, 50, seed=1)
    found = measured(clean, spliced, tokens)["kl"].double()
    rounding = 5e-7  # of a float32 log-probability of some nats
    assert found.min() > -rounding
    assert (found - scipy_kl(clean, spliced)).abs().max() < rounding


def test_a_shift_of_all_logits_is_no_divergence(tokens):
    clean = logits_of(4, 7).double()
    assert measured(clean, clean + 100, tokens)["kl"].abs().max() < 1e-12


def test_a_huge_kl_is_not_capped():
    """Far above 18.4 nats, where adding 1e-8 to probabilities would stop it."""
    clean, spliced = torch.zeros(1, 1, VOCAB), torch.zeros(1, 1, VOCAB)
    clean[..., 3] = 200.0
    spliced[..., 4] = 300.0
    found = measured(clean, spliced, ONE_TOKEN)
    assert found["kl"].item() == pytest.approx(300.0, rel=1e-6)
    assert scipy_kl(clean, spliced).item() == pytest.approx(300.0, rel=1e-6)


def test_a_token_that_only_the_spliced_run_excludes_costs_infinitely_much_and_no_nan():
    clean = torch.zeros(1, 1, VOCAB)
    spliced = clean.clone()
    spliced[..., 7] = -torch.inf
    kl = measured(clean, spliced, ONE_TOKEN)["kl"]
    assert kl.item() == torch.inf


def test_half_precision_logits_are_measured_in_float32(tokens):
    clean, spliced = logits_of(4, 7).bfloat16(), logits_of(4, 7, seed=1).bfloat16()
    found = measured(clean, spliced, tokens)
    assert found["kl"].dtype == found["ce"].dtype == torch.float32
    torch.testing.assert_close(found["kl"].double(), scipy_kl(clean, spliced), rtol=1e-5, atol=1e-6)


def test_ce_is_that_of_the_next_token_under_the_spliced_run(tokens):
    clean, spliced = logits_of(4, 7), logits_of(4, 7, seed=1)
    found = measured(clean, spliced, tokens)["ce"]
    expected = torch.nn.functional.cross_entropy(
        spliced[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
    )
    torch.testing.assert_close(found[:, :-1].flatten(), expected)
    assert found[:, -1].abs().max() == 0


def test_agreement_is_of_the_most_likely_tokens(tokens):
    clean, spliced = logits_of(4, 7), logits_of(4, 7, seed=1)
    spliced[:2] = clean[:2] * 0.5
    found = measured(clean, spliced, tokens)["agreement"] == 1
    assert torch.equal(found, clean.argmax(-1) == spliced.argmax(-1))
    assert found[:2].all()
    assert not found[2:].all()


def distributions(clean, spliced):
    """P and Q of every token, flattened, in float64."""
    return (np.exp(log_softmax(x.double().numpy(), axis=-1)).reshape(-1, VOCAB) for x in (clean, spliced))


@pytest.mark.parametrize("top_n", [1, 2, 10, VOCAB])
def test_measures_of_the_top_tokens_agree_with_direct_computations(tokens, top_n):
    clean = logits_of(4, 7).double()
    spliced = clean + logits_of(4, 7, seed=1)
    found = {name: value.flatten() for name, value in measured(clean, spliced, tokens, top_n).items()}
    for i, (p, q) in enumerate(zip(*distributions(clean, spliced), strict=True)):
        order_p, order_q = np.argsort(-p), np.argsort(-q)
        top, rest = order_p[:top_n], order_p[top_n:]
        coarse = rel_entr(p[top], q[top]).sum()
        coarse += rel_entr(p[rest].sum(), q[rest].sum()) if len(rest) else 0
        middle = (p + q) / 2
        expected = {
            "top_n_kl": coarse,
            "top_n_overlap": len(set(top) & set(order_q[:top_n])) / top_n,
            "top_n_kendall_tau": kendalltau(p[top], q[top]).statistic if top_n > 1 else 1.0,
            "reverse_kl": rel_entr(q, p).sum(),
            "js": (rel_entr(p, middle).sum() + rel_entr(q, middle).sum()) / 2,
            "clean_argmax_rank": 1 + order_q.tolist().index(order_p[0]),
        }
        assert {name: found[name][i].item() for name in TOP_N} == pytest.approx(expected, abs=1e-9)


def test_identical_logits_are_as_close_as_the_top_measures_can_say(tokens):
    clean = logits_of(4, 7)
    found = measured(clean, clean.clone(), tokens, top_n=5)
    for name, value in {
        "top_n_kl": 0,
        "reverse_kl": 0,
        "js": 0,
        "top_n_overlap": 1,
        "clean_argmax_rank": 1,
    }.items():
        torch.testing.assert_close(found[name], torch.full((4, 7), float(value)), rtol=0, atol=1e-6)
    assert (found["top_n_kendall_tau"] == 1).all()


def test_top_measures_of_tokens_that_are_impossible_under_both_runs_are_finite():
    """A probability below 1e-45 is 0 in float32, under P and under Q."""
    clean, spliced = torch.zeros(1, 1, VOCAB), torch.zeros(1, 1, VOCAB)
    clean[..., 3] = spliced[..., 4] = 150.0
    clean[..., 4] = spliced[..., 3] = 149.0
    found = measured(clean, spliced, ONE_TOKEN, top_n=5)
    p = 1 / (1 + np.exp(-1))
    kl = p - (1 - p)
    assert found["reverse_kl"].item() == pytest.approx(kl, rel=1e-5)
    middle = p * np.log(p / 0.5) + (1 - p) * np.log((1 - p) / 0.5)
    assert found["js"].item() == pytest.approx(middle, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_loop_gives_what_single_operations_give(dtype):
    p, q = (logits_of(30, seed=seed).to(dtype).log_softmax(-1) for seed in (0, 1))
    thresholds = q[:, :1], q[:, 1:2]
    one = fused.fused_sums(p.exp(), p, q, *thresholds)
    torch.testing.assert_close(tuple(one), fused._sums(p.exp(), p, q, *thresholds))


def test_without_a_compiler_the_top_measures_are_the_same(tokens, monkeypatch, caplog):
    clean, spliced = logits_of(4, 7), logits_of(4, 7, seed=1)
    expected = measured(clean, spliced, tokens, top_n=5)
    fused._summed.cache_clear()

    def no_compiler(*_, **__):
        def fail(*_):
            raise RuntimeError("no C++ compiler")

        return fail

    monkeypatch.setattr(torch, "compile", no_compiler)
    with caplog.at_level("INFO"):
        found = measured(clean, spliced, tokens, top_n=5)
    fused._summed.cache_clear()
    assert "no C++ compiler" in caplog.text
    torch.testing.assert_close(found, expected)


def test_tokens_that_the_clean_run_thinks_unlikely_may_be_on_top(tokens):
    clean = logits_of(4, 7).double()
    spliced = -clean  # none of the likely tokens is among the likeliest
    found = measured(clean, spliced, tokens, top_n=5)
    assert (found["top_n_overlap"] == 0).all()
    assert (found["clean_argmax_rank"] == VOCAB).all()
