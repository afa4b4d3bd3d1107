"""What a plan says of an attribution is how often its blocks go through the model."""

from types import SimpleNamespace

import pytest
import torch

from sae_nfm.attribution.ablation import BLOCKS_EACH
from sae_nfm.attribution.choosing import SHARES, SINGLES, choose
from sae_nfm.attribution.sums import PairTable
from sae_nfm.planning.attribution import Runs, line_of_attribution, of_a_pass, runs_of
from sae_nfm.planning.costs import Model
from sae_nfm.planning.timing import Speeds
from sae_nfm.stages.attribute import Attribute
from small_attribution import small_task


@pytest.mark.parametrize("features", [True, False])
@torch.no_grad()
def test_runs_of_a_pass_are_those_of_its_task(tmp_path, monkeypatch, features):
    task, numbers = small_task(tmp_path, nodes=3)
    task.features, ran = features, []
    for name in ("clean", "by_token"):
        run = getattr(task.through, name)
        monkeypatch.setattr(
            task.through, name, lambda *a, run=run, **k: (ran.append(k or a), run(*a, **k))[1]
        )
    task.attributed(numbers)
    back = sum(given == {"with_gradient": True} for given in ran)
    assert of_a_pass(features, 3) == Runs(1, len(ran) - back, back)


def test_sets_and_single_ablations_are_as_many_as_are_chosen():
    pairs = torch.triu_indices(200, 200, 1)
    number = pairs.shape[1]
    generator = torch.Generator().manual_seed(0)
    taken_off = torch.randn(number, generator=generator, dtype=torch.float64)
    together = torch.full((number,), 50)
    table = PairTable(pairs[0], pairs[1], taken_off, taken_off**2 / 50, taken_off, together)
    choice = choose(table, torch.rand(number, generator=generator), 200, 7, 0, 0)
    stage = attribute(choosing=0, verifying=1000, further_seeds=0)
    own = 1000 * of_a_pass(False, 4).suffix
    sets = 2 * sum(len(each.sizes) for each in choice.orders)
    assert runs_of(stage).suffix == own + 1000 * sets + 2 * len(choice.singles) * BLOCKS_EACH
    assert (len(choice.singles), len(choice.orders[0].sizes)) == (SINGLES, len(SHARES) + 1)


def attribute(choosing, verifying, further_seeds):
    """The stage, without its model."""
    stage = Attribute.__new__(Attribute)
    stage.how = SimpleNamespace(
        features=False, nodes=4, further_seeds=further_seeds, busiest=10, batch_size=8
    )
    stage.halves = SimpleNamespace(choosing=range(choosing), verifying=range(verifying))
    blocks = SimpleNamespace(context=16)
    stage.scored = SimpleNamespace(num_tokens=3000, num_blocks=200, blocks=blocks)
    return stage


def test_a_study_that_attributes_has_a_line_for_it(tmp_path):
    stage = attribute(choosing=90, verifying=100, further_seeds=2)
    task, _ = small_task(tmp_path)  # 20 latents, 6 of them active
    activations = SimpleNamespace(
        lm=task.lm,
        site=SimpleNamespace(layer=0),
        store=SimpleNamespace(ranks=SimpleNamespace(world_size=2)),
    )
    workshop = SimpleNamespace(activations=activations, autoencoder=task.autoencoder)
    speeds, model = Speeds(1.0, 10.0, {}, {}), Model([3.0, 4.0], 5.0, 0)
    line = line_of_attribution([stage], model, speeds, workshop)
    assert line.planned.demand.tokens == 3000 * 190 / 200
    blocks, suffix = 190 + 2 * 90, 2 * 4 * 6 * 100 + 2 * 200 * 16
    assert line.seconds == 16 * (blocks * (1 + 10 * (4 + 3 * 4)) + 10 * suffix) / 2
    assert line.operations == 16 * (blocks * (3 + 9 * (4 + 2 * 4)) + 9 * suffix)
    tokens, width = 16 * 16, task.lm.d_model * len(task.lm.layers)  # 16 blocks without a pair each at once
    assert line.memory.computing == 180 * 8 * 16 * 15 + 8 * 4 * tokens * width
    assert line.memory.kept == 4 * (32 * 10**2 + 8 * 5 * 2**20) + 24 * 10**2  # a sketch of the other pairs
    assert line_of_attribution([], model, speeds, workshop) is None
