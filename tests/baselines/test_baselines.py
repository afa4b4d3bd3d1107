import pytest
import torch

from sae_nfm.baselines.matched import (
    Cov,
    Eps,
    NormCorrected,
    NormOnly,
    Permuted,
    Real,
    Target,
    Theta,
    choice,
    normal,
)
from sae_nfm.baselines.spliceable import Spliceable
from sae_nfm.baselines.surroundings import Surroundings
from sae_nfm.evaluation.reconstructions import Mean, Zero
from sae_nfm.models.codes import Codes
from small_models import make_parts

D = 24
MATCHED = [Eps(), Cov(), Real()]


def batch_of(blocks, seed=0):
    """Blocks with activations of their own, as an evaluation would read them."""
    x = torch.stack([torch.randn(7, D, generator=torch.Generator().manual_seed(b)) for b in blocks]) * 3 + 1
    mixing = torch.randn(D, D, generator=torch.Generator().manual_seed(99))
    around = Surroundings(torch.ones(D), mixing, torch.randn(50, D))
    no_codes = Codes(torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    parts = make_parts(x, no_codes, x * 0.8 + 0.3)
    return Spliceable(x, parts, torch.tensor(blocks), seed, around, {})


def target_of(batch):
    return Target(batch.parts.sae, torch.randn(50, D, generator=torch.Generator().manual_seed(3)))


@pytest.mark.parametrize("baseline", MATCHED, ids=lambda b: type(b).__name__)
def test_the_error_has_the_norm_of_the_reconstructions_own(baseline):
    batch = batch_of([0, 1, 2])
    error = baseline(batch, target_of(batch), 0) - batch.x
    expected = (batch.parts.sae - batch.x).norm(dim=-1)
    torch.testing.assert_close(error.norm(dim=-1), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("baseline", [*MATCHED, Theta("x"), Permuted()], ids=lambda b: type(b).__name__)
def test_a_draw_depends_on_the_block_and_not_on_its_batch(baseline):
    together, alone = batch_of([0, 1, 2]), batch_of([1])
    together = together._replace(surroundings=alone.surroundings)
    one = baseline(together, target_of(together), 4)[1]
    other = baseline(alone, target_of(alone), 4)[0]
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("baseline", [*MATCHED, Theta("x"), Permuted()], ids=lambda b: type(b).__name__)
def test_draws_blocks_and_seeds_differ(baseline):
    batch = batch_of([0, 0, 1])  # the same activations at two places
    batch = batch._replace(blocks=torch.tensor([0, 5, 1]))
    target = target_of(batch)
    first = baseline(batch, target, 0)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, baseline(batch, target, 1))
    assert not torch.equal(first, baseline(batch._replace(seed=1), target, 0))


def test_eps_directions_are_uniform_on_the_sphere():
    batch = batch_of(list(range(400)))
    u = torch.nn.functional.normalize(Eps()(batch, target_of(batch), 0) - batch.x, dim=-1).flatten(0, 1)
    covariance = u.T @ u / len(u)
    assert u.mean(0).norm() < 4 / len(u) ** 0.5
    assert (covariance - torch.eye(D) / D).abs().max() < 5 / D / len(u) ** 0.5 * D**0.5


@pytest.mark.parametrize("norm", ["x", "reconstruction"])
def test_theta_keeps_the_cosine_and_the_norm_asked_for(norm):
    batch = batch_of([0, 1])
    out = Theta(norm)(batch, target_of(batch), 0)
    expected = torch.cosine_similarity(batch.parts.sae, batch.x, dim=-1)
    torch.testing.assert_close(torch.cosine_similarity(out, batch.x, dim=-1), expected, rtol=1e-4, atol=1e-5)
    norms = {"x": batch.x, "reconstruction": batch.parts.sae}[norm].norm(dim=-1)
    torch.testing.assert_close(out.norm(dim=-1), norms, rtol=1e-4, atol=0)


def test_theta_refuses_another_norm():
    with pytest.raises(ValueError, match="norm=y: allowed are x, reconstruction"):
        Theta("y")


def test_cov_errors_lie_along_the_covariance():
    batch = batch_of(list(range(300)))
    flat = torch.zeros(D, D)
    flat[:, :2] = torch.randn(D, 2, generator=torch.Generator().manual_seed(1))
    around = batch.surroundings._replace(factor=flat)
    batch = batch._replace(surroundings=around)
    error = (Cov()(batch, target_of(batch), 0) - batch.x).flatten(0, 1)
    assert torch.linalg.matrix_rank(error, rtol=1e-3) == 2
    outside = error - error @ torch.linalg.pinv(flat).T @ flat.T  # the columns of L span Σ, its rows do not
    assert outside.norm() < 1e-3 * error.norm()


def test_permuted_errors_are_the_banks_as_they_are():
    batch = batch_of([0])
    target = target_of(batch)
    error = (Permuted()(batch, target, 0) - batch.x)[0]
    nearest = (error.unsqueeze(1) - target.bank_error).norm(dim=-1).amin(1)
    assert nearest.max() < 1e-4


def test_norm_baselines_take_direction_from_one_and_norm_from_the_other():
    batch = batch_of([0, 1])
    target = target_of(batch)
    only, corrected = NormOnly()(batch, target, 0), NormCorrected()(batch, target, 0)
    torch.testing.assert_close(only.norm(dim=-1), batch.parts.sae.norm(dim=-1))
    torch.testing.assert_close(torch.cosine_similarity(only, batch.x, dim=-1), torch.ones(2, 7))
    torch.testing.assert_close(corrected.norm(dim=-1), batch.x.norm(dim=-1))
    torch.testing.assert_close(torch.cosine_similarity(corrected, batch.parts.sae, dim=-1), torch.ones(2, 7))


def test_zero_and_mean_do_not_depend_on_the_activation():
    batch = batch_of([0, 1])
    assert not Zero()(batch).any()
    assert torch.equal(Mean()(batch), torch.ones(2, 7, D))


def test_names_and_draws_settle_what_is_drawn():
    batch = batch_of([3])
    for draw in (normal, lambda batch, name, number: choice(batch, name, number, 1000)):
        first = draw(batch, "one", 0)
        assert torch.equal(first, draw(batch, "one", 0))
        assert not torch.equal(first, draw(batch, "two", 0))
        assert not torch.equal(first, draw(batch, "one", 1))


def test_real_errors_point_from_one_activation_of_the_bank_to_another():
    batch = batch_of(list(range(40)))
    batch = batch._replace(surroundings=batch.surroundings._replace(bank=torch.eye(D)[:3] * 2))
    error = (Real()(batch, target_of(batch), 0) - batch.x).flatten(0, 1)
    directions = torch.nn.functional.normalize(error, dim=-1)[:, :3]
    pairs = {tuple(row) for row in (directions * 2**0.5).round().int().tolist()}
    assert pairs == {(1, -1, 0), (1, 0, -1), (-1, 1, 0), (0, 1, -1), (-1, 0, 1), (0, -1, 1)}
    torch.testing.assert_close(error[:, 3:], torch.zeros_like(error[:, 3:]), rtol=0, atol=1e-5)


def test_theta_of_a_reconstruction_that_points_along_the_activation_is_the_activation():
    """Rounding may bring the cosine of equal directions above 1."""
    batch = batch_of(list(range(50)))
    for scale in (1.0, 1.7, -1.0):
        target = target_of(batch)._replace(reconstruction=batch.x * scale)
        turned = Theta("x")(batch, target, 0)
        assert turned.isfinite().all()
        torch.testing.assert_close(turned, batch.x * (1 if scale > 0 else -1), rtol=1e-2, atol=1e-2)
