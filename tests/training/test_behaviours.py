"""The formula of every objective through the model, on logits that one can follow by hand."""

import math

import pytest
import torch

from sae_nfm.settings.values import NotAllowed
from sae_nfm.training.objectives.behaviour import Seen
from sae_nfm.training.objectives.ce import CE
from sae_nfm.training.objectives.downstream import Downstream
from sae_nfm.training.objectives.kl import KL
from sae_nfm.training.objectives.kl_reconstruction import KLAndReconstruction
from sae_nfm.training.objectives.rank import Rank
from sae_nfm.training.objectives.top_n_kl import TopNKL

P = torch.tensor([0.5, 0.25, 0.125, 0.125])
Q = torch.tensor([0.25, 0.25, 0.25, 0.25])
NO_STREAMS = torch.zeros(0, 1, 3)
NOTHING_FOLLOWS, THE_SECOND = torch.tensor([-1]), torch.tensor([1])


def seen(distribution, streams=NO_STREAMS):
    return Seen(distribution.log().unsqueeze(0) + 7, streams)  # logits have no origin


def loss(objective, p=P, q=Q, targets=NOTHING_FOLLOWS, of_p=NO_STREAMS, of_q=NO_STREAMS):
    return objective.per_token(seen(p, of_p), seen(q, of_q), targets).item()


def test_downstream_of_streams_whose_squared_norm_no_half_holds():
    streams = torch.full((2, 1, 64), 60.0)  # ‖h‖² = 230,400
    other = streams + torch.linspace(-8, 8, 64)
    found = [
        loss(Downstream(0.0), of_p=streams.to(dtype), of_q=other.to(dtype))
        for dtype in (torch.float32, torch.float16)
    ]
    assert found[0] > 0.001
    assert found[1] == pytest.approx(found[0], rel=0.01)


@pytest.mark.parametrize("objective", [KL(), KLAndReconstruction()])
def test_kl(objective):
    assert loss(objective) == pytest.approx(0.5 * math.log(2) - 0.25 * math.log(2))
    assert loss(objective, q=P) == 0
    assert objective.adds_reconstruction is isinstance(objective, KLAndReconstruction)


def test_top_n_kl_takes_the_rest_as_one():
    """(.5, .5) against (.25, .75) for n = 1; all tokens for n = 4 and more."""
    assert loss(TopNKL(1)) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75))
    assert loss(TopNKL(4)) == pytest.approx(loss(KL()), rel=1e-5)
    assert loss(TopNKL(99)) == pytest.approx(loss(KL()), rel=1e-5)
    assert loss(TopNKL(2), q=P) == pytest.approx(0, abs=1e-6)


def test_rank_is_the_pairwise_logistic_loss():
    """Of the first three tokens in the clean order; ties of the spliced run cost log 2 each."""
    assert loss(Rank(3)) == pytest.approx(math.log(2))
    pairs = [math.log(1 + (P[j] / P[i]) ** 3) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert loss(Rank(3, sharpness=3.0), q=P) == pytest.approx(sum(pairs) / 3)
    assert loss(Rank(2), q=P.flip(0)) > loss(Rank(2), q=P)


def test_ce_is_that_of_the_token_that_follows():
    assert loss(CE(), q=P, targets=THE_SECOND) == pytest.approx(math.log(4))
    assert loss(CE(), q=P) == 0
    assert not CE.reads_clean


def test_downstream_is_the_relative_error_of_later_streams():
    """Layers with ‖h‖² = 4 and 1 that are off by 1 and 2: fractions 1/4 and 4."""
    h = torch.tensor([[[2.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]])
    off = torch.tensor([[[2.0, 1.0, 0.0]], [[0.0, 1.0, 2.0]]])
    assert loss(Downstream(kl=0), of_p=h, of_q=off) == pytest.approx((1 / 4 + 4) / 2)
    assert loss(Downstream(kl=2), of_p=h, of_q=h) == pytest.approx(2 * loss(KL()))
    assert Downstream.reads_streams


@pytest.mark.parametrize("make", [lambda: TopNKL(0), lambda: Rank(1), lambda: Downstream(kl=-1)])
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(NotAllowed):
        make()
