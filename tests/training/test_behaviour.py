"""What a step through the model is given: the blocks that an evaluation sees."""

from functools import partial
from typing import Any, cast

import pytest
import torch

from sae_nfm.models.plant import Plant
from sae_nfm.training.behaviour import BehaviourTask
from sae_nfm.training.objectives.kl import KL
from sae_nfm.training.schedule import Schedule
from small_attribution import D_SAE, SITE, Scored, small_task


@pytest.mark.parametrize("plants", [False, True])
def test_training_splices_into_the_blocks_of_an_evaluation(tmp_path, plants):
    evaluating, numbers = small_task(tmp_path)
    autoencoder, lm, tokens = evaluating.autoencoder, evaluating.lm, Scored().blocks.all
    own = lm.prefix(tokens, SITE).activation
    if plants:
        plant = Plant("pairs", num_tuples=4, strength=1.0, noise=0.1)
        explained = autoencoder.explain(own.flatten(0, 1).double())
        plant.fit(explained.codes, explained.decoded, D_SAE, seed=0)
        autoencoder.plant = plant
    task = BehaviourTask(
        autoencoder, ("linear", "interaction"), lm, SITE, lambda blocks: blocks != 0, 2, KL(),
        cast("Any", partial(torch.optim.Adam, lr=1e-3)), Schedule(10, 0.1, 0.3), seed=0,
    )  # fmt: skip
    task.trainer = cast("Any", type("AtTheStart", (), {"global_step": 0}))
    blocks, x = task.at_the_site(tokens)
    expected, parts = evaluating.spliced(numbers)
    assert blocks.x.dtype == (torch.float64 if plants else lm.model.dtype)
    torch.testing.assert_close(blocks.x.double(), expected.x)
    assert torch.equal(blocks.scored, expected.scored)
    torch.testing.assert_close(autoencoder(x).whole, parts.whole)
    assert torch.equal(blocks.x[:, 0].double(), own[:, 0].double()) is not plants  # at BOS
