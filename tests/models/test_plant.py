import pytest
import torch

from sae_nfm.models.autoencoder import Autoencoder
from sae_nfm.models.codes import Codes
from sae_nfm.models.normalizer import Normalizer
from sae_nfm.models.plant import Plant, _tuples_that_fire
from sae_nfm.models.residuals.planted import PlantedProducts
from sae_nfm.models.saes.topk import TopKSAE

D_IN, D_SAE, TOKENS = 16, 12, 4000


def planted_autoencoder(kind, strength=2.0, noise=0.1):
    torch.manual_seed(0)
    autoencoder = Autoencoder(Normalizer(D_IN), TopKSAE(D_IN, D_SAE, 5, "zero"))
    x = torch.randn(TOKENS, D_IN)
    codes = autoencoder.sae.encode(x)
    plant = Plant(kind, num_tuples=4, strength=strength, noise=noise)
    plant.fit(codes, autoencoder.sae.decode(codes).detach(), D_SAE, seed=1)
    autoencoder.plant = plant
    return autoencoder, x


@pytest.mark.parametrize(("kind", "size"), [("pairs", 2), ("triples", 3), ("linear", 1)])
def test_the_planted_part_is_the_sum_over_its_tuples(kind, size):
    autoencoder, x = planted_autoencoder(kind)
    plant = autoencoder.plant
    codes = autoencoder.sae.encode(x[:50])
    dense = codes.dense(D_SAE)
    expected = torch.zeros(50, D_IN)
    for latents, direction in zip(plant.tuples.tolist(), plant.directions, strict=True):
        assert len(set(latents)) == size
        expected += dense[:, latents].prod(1, keepdim=True) * direction
    torch.testing.assert_close(plant.planted(codes, D_SAE), plant.gain * expected)


def test_what_is_planted_on_codes_of_double_precision_is_of_it():
    autoencoder, x = planted_autoencoder("pairs")
    codes = autoencoder.sae.encode(x)
    double = Codes(codes.values.double(), codes.indices)
    plant = Plant("pairs", num_tuples=4, strength=2.0, noise=0.1)
    plant.fit(double, autoencoder.sae.decode(codes).detach().double(), D_SAE, seed=1)
    planted = plant.planted(double, D_SAE)
    assert planted.dtype == torch.float64
    expected = autoencoder.plant.planted(codes, D_SAE)
    torch.testing.assert_close(planted.float(), expected, rtol=1e-4, atol=1e-5)
    truth = PlantedProducts.of(plant, D_SAE, linear=True, bias=True)
    torch.testing.assert_close(truth.interaction(double), planted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["pairs", "triples", "linear", "none"])
def test_a_model_that_knows_the_tuples_starts_as_what_was_planted(kind):
    autoencoder, x = planted_autoencoder(kind)
    plant, codes = autoencoder.plant, autoencoder.sae.encode(x[:50])
    model = PlantedProducts.of(plant, D_SAE, linear=True, bias=True)
    torch.testing.assert_close(model(codes).total, plant.planted(codes, D_SAE))
    assert torch.equal(model(codes).interaction, model(codes).total)
    model(codes).total.sum().backward()
    assert all(parameter.grad.any() for parameter in model.parameters())
    assert {name for name, _ in model.named_parameters()} == {"W_lin", "b", "directions"}


def test_before_anything_is_planted_it_has_the_shapes():
    autoencoder, x = planted_autoencoder("none")
    autoencoder.plant = plant = Plant("triples", num_tuples=4, strength=1.0, noise=0.1)
    plant.shape_(D_IN)
    parts = autoencoder(x[:50])
    assert torch.equal(parts.x, parts.sae)
    model = PlantedProducts.of(plant, D_SAE, linear=False, bias=True)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes == {"tuples": (4, 3), "directions": (4, D_IN), "b": (D_IN,)}


@pytest.mark.parametrize("kind", ["pairs", "triples", "linear"])
def test_energies_are_as_configured(kind):
    autoencoder, x = planted_autoencoder(kind)
    plant, codes = autoencoder.plant, autoencoder.sae.encode(x)
    energy = autoencoder.sae.decode(codes).var(0).sum()
    noise = plant.unexplained(x).var(0).sum()
    torch.testing.assert_close(noise, 0.1 * energy, rtol=0.05, atol=0)
    torch.testing.assert_close(plant.planted(codes, D_SAE).var(0).sum(), 2 * 0.1 * energy, rtol=1e-3, atol=0)


def test_nothing_planted_leaves_noise_alone():
    autoencoder, x = planted_autoencoder("none")
    parts = autoencoder(x)
    assert not parts.planted.any()
    torch.testing.assert_close(parts.x - parts.sae, autoencoder.plant.unexplained(x), rtol=1e-3, atol=1e-5)


def test_the_codes_are_those_of_the_real_activation():
    autoencoder, x = planted_autoencoder("pairs")
    parts = autoencoder(x)
    assert torch.equal(parts.codes.dense(D_SAE), autoencoder.sae.encode(x).dense(D_SAE))
    rest = parts.x - parts.sae - parts.planted
    torch.testing.assert_close(rest, autoencoder.plant.unexplained(x), rtol=1e-3, atol=1e-4)


def test_noise_is_standard_normal_uncorrelated_and_the_same_in_any_batch():
    autoencoder, x = planted_autoencoder("pairs")
    plant = autoencoder.plant
    noise = plant.unexplained(x) / plant.noise_scale
    assert torch.equal(plant.unexplained(x[7:9]), plant.unexplained(x)[7:9])
    assert abs(noise.mean()) < 0.02
    assert abs(noise.var() - 1) < 0.02
    correlation = torch.corrcoef(torch.cat([noise, x], 1).T) - torch.eye(2 * D_IN)
    assert correlation[:D_IN].abs().max() < 5 / TOKENS**0.5


def test_rounding_of_the_activation_leaves_the_noise_alone():
    """As between batches and devices: an activation one float away is no other token."""
    autoencoder, x = planted_autoencoder("pairs")
    plant = autoencoder.plant
    noise, after = plant.unexplained(x), plant.unexplained(torch.nextafter(x, torch.full_like(x, torch.inf)))
    assert (noise - after).abs().max() < 1e-2 * plant.noise_scale
    torch.testing.assert_close(plant.unexplained(x.double()).float(), noise)
    other = plant.unexplained(x + 0.1)
    assert torch.corrcoef(torch.stack([noise.flatten(), other.flatten()]))[0, 1].abs() < 0.02


def test_what_was_fitted_is_restored_from_its_state():
    autoencoder, x = planted_autoencoder("pairs")
    again = Plant("pairs", 4, 2.0, 0.1)
    again.restore(autoencoder.plant.state_dict())
    codes = autoencoder.sae.encode(x)
    assert torch.equal(again.planted(codes, D_SAE), autoencoder.plant.planted(codes, D_SAE))


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="kind=squares: allowed are pairs, triples, linear, none"):
        Plant("squares", 4, 1.0, 0.1)
    lonely = Codes(torch.ones(10, 1), torch.arange(10).unsqueeze(1))
    with pytest.raises(ValueError, match="no 2 latents fire together"):
        Plant("pairs", 4, 1.0, 0.1).fit(lonely, torch.randn(10, 3), 10, 0)


def test_tuples_are_of_latents_that_fire_together_and_the_least_predictable_come_first():
    """0 and 1 fire apart and together, 2 only where 0 does, 3 always, and 4 never."""
    generator = torch.Generator().manual_seed(0)
    fires = torch.rand(5000, 5, generator=generator) < torch.tensor([0.4, 0.4, 0.9, 1.1, 0.0])
    fires[:, 2] &= fires[:, 0]
    values = fires * torch.rand(5000, 5, generator=generator)
    codes = Codes(values, torch.arange(5).expand(5000, 5))
    pairs = _tuples_that_fire(codes, 5, 2, latents=3).tolist()
    assert pairs[0] == [0, 1]
    assert [0, 2] in pairs  # predictable: 2 tells of 0
    assert pairs.index([0, 2]) > 0
    assert all(3 not in pair and 4 not in pair for pair in pairs)


def test_codes_in_which_nothing_fires_together_are_refused_by_the_setting():
    alone = Codes(torch.ones(100, 1), torch.arange(100).remainder(5).unsqueeze(1))
    with pytest.raises(ValueError, match=r"^plant\.kind=pairs: .*allowed are SAEs with such latents"):
        _tuples_that_fire(alone, 5, 2)
