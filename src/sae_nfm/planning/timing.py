"""Seconds that tokens take, by a short measurement of the very things that the study does.

Of a model without weights: by operations, and how fast this machine multiplies matrices.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from sae_nfm.models.saes.firing import Firing
from sae_nfm.planning.costs import Model, computes_activations, of_dictionary, processes
from sae_nfm.planning.solving import adding_step, can_be_measured, num_features, of_adding, of_solving
from sae_nfm.planning.workshop import Planned
from sae_nfm.recipes.activations import SiteActivations
from sae_nfm.training.objectives.reconstruction import Reconstruction
from sae_nfm.training.parts import make, train_only

_ENOUGH = 1.0  # seconds of a measurement
_WIDTH = 2048  # of the matrices that are multiplied


class Speeds(NamedTuple):
    """Seconds a token."""

    prefix: float
    suffix: float
    """Of one pass from the site to the divergence."""
    steps: dict[str, float]
    """Of training, or reading, by name of what is made."""
    solving: dict[str, float]
    """Seconds, of all tokens together, of least-squares problems."""

    def of(self, planned: Planned, activations: SiteActivations) -> float:
        """Seconds that making something takes."""
        demand = planned.demand
        each = self.steps.get(planned.name, 0.0)
        if computes_activations(demand, activations):
            each += self.prefix
        if demand.through_model:
            each += 4 * self.suffix  # clean, spliced, and back
        seconds = each * demand.tokens + self.solving.get(planned.name, 0.0)
        return seconds / processes(demand, activations)


def measured(planned: list[Planned], activations: SiteActivations) -> Speeds:
    """Run the model, and a few steps of everything that is to be made."""
    lm, cfg, blocks = activations.lm, activations.cfg, activations.splits.test
    tokens = blocks.tokens(range(min(len(blocks), cfg.lm_batch)))
    rows = tokens[: cfg.evaluation.batch_size]
    prefix = lm.prefix(rows, activations.site)
    x = activations.validation(0).read(0, min(cfg.batch_tokens, activations.validation(0).tokens_per_round))
    suffix = _seconds(lambda: lm.suffix(prefix.activation, prefix.resid, activations.site).log_softmax(-1))
    steps = {
        each.name: _seconds(_step(each, x.float(), lm.device)) / len(x)
        for each in planned
        if not each.there and each.demand.autoencoder is not None
    }
    reading = _seconds(lambda: lm.prefix(tokens, activations.site))
    solving = {}
    if solved := [each for each in planned if not each.there and num_features(each)]:
        speed = speed_of_products(lm.device, torch.float64)
        solving = {each.name: of_solving(each) / speed for each in solved}
        for each in solved:
            if not can_be_measured(each, lm.device):
                steps[each.name] += of_adding(each) / speed
    return Speeds(reading / tokens.numel(), suffix / rows.numel(), steps, solving)


def estimated(planned: list[Planned], model: Model, layer: int, speed: float) -> Speeds:
    """From what is counted.

    Args:
        planned: everything that is to be made.
        model: what the language model takes.
        layer: of the site.
        speed: operations a second.
    """
    steps = {each.name: (of_dictionary(each) + of_adding(each)) / speed for each in planned}
    solving = {each.name: of_solving(each) / speed for each in planned}
    return Speeds(model.prefix(layer) / speed, model.suffix(layer) / speed, steps, solving)


def speed_of_products(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a product of two matrices."""
    a, b = (torch.randn(_WIDTH, _WIDTH, device=device).to(dtype) for _ in range(2))
    return 2 * _WIDTH**3 / _seconds(lambda: a @ b)


def _step(planned: Planned, x: torch.Tensor, device: torch.device) -> Callable[[], Any]:
    """A training step, or a look at the codes where nothing is trained, and what is solved on them."""
    demand, autoencoder = planned.demand, planned.demand.autoencoder
    assert autoencoder is not None
    autoencoder = autoencoder.to(device)
    train_only(autoencoder, demand.parts)
    trained = [parameter for parameter in autoencoder.parameters() if parameter.requires_grad]
    if can_be_measured(planned, device):
        return adding_step(planned, x, device)
    if not trained:
        return lambda: autoencoder.explain(x)
    optimizer = torch.optim.Adam(trained, lr=0.0, fused=True)
    objective, firing = Reconstruction(), Firing(autoencoder.sae.d_sae).to(device)

    def step() -> None:
        made = make(autoencoder, x, demand.parts, firing)
        loss = objective.of_activation(made.target, made.reconstruction)
        loss = loss + sum((made.attempt.terms if made.attempt else {}).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _seconds(act: Callable[[], Any]) -> float:
    """Of one call, the fastest of those in about a second."""
    act()
    fastest, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < _ENOUGH:
        started = time.perf_counter()
        act()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        fastest = min(fastest, time.perf_counter() - started)
    return fastest
