"""An attribution that was interrupted goes on with the batch it had come to."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torchmetrics import Metric

from sae_nfm.attribution.contexts import Contexts
from sae_nfm.store.files import replacing
from sae_nfm.store.ranks import Ranks

log = logging.getLogger(__name__)


class Resumed:
    """Keeps what a process has summed up, every so many batches.

    Args:
        folder: where it is kept until the attribution is finished.
        name: of the pass.
        about: what determines its sums; sums of anything else are not gone on from.
        ranks: the processes, each of which has sums of its own.
        every: batches.
    """

    def __init__(self, folder: Path, name: str, about: str, ranks: Ranks, every: int) -> None:
        self.path = folder / f"{name}.rank-{ranks.rank}.pt"
        self.name, self.every = name, every
        self.about = f"{about} {name} {ranks.world_size}"
        self.done = 0

    def restore(self, metrics: nn.ModuleDict, contexts: Contexts | None) -> tuple[int, float]:
        """Take up what was kept, and return how many batches are in it and what they took in seconds."""
        kept = self._read()
        if kept is None:
            return 0, 0.0
        for name, state in kept["sums"].items():
            _set_state(cast(Metric, metrics[name]), state)
        if contexts is not None:
            contexts.__dict__.update(kept["contexts"])
        self.done = kept["done"]
        log.info("%s: going on from %s, batch %d", self.name, self.path, self.done)
        return self.done, kept["seconds"]

    def keep(self, metrics: nn.ModuleDict, contexts: Contexts | None, seconds: float) -> None:
        """Count a batch, and write the sums down where it is time to."""
        self.done += 1
        if self.done % self.every:
            return
        sums = {name: _state(cast(Metric, metric)) for name, metric in metrics.items()}
        kept = {"about": self.about, "done": self.done, "seconds": seconds, "sums": sums}
        if contexts is not None:
            kept["contexts"] = {name: value for name, value in vars(contexts).items() if name != "order"}
        with replacing(self.path) as partial:
            torch.save(kept, partial)

    def _read(self) -> Mapping[str, Any] | None:
        if not self.path.exists():
            return None
        kept = torch.load(self.path, map_location="cpu", weights_only=False)  # written by this program, here
        return kept if kept["about"] == self.about else None


def _state(metric: Metric) -> dict[str, Any]:
    state = {name: getattr(metric, name) for name in metric._defaults}
    return {name: [each.cpu() for each in v] if isinstance(v, list) else v.cpu() for name, v in state.items()}


def _set_state(metric: Metric, state: Mapping[str, Any]) -> None:
    for name, value in state.items():
        moved = (
            [each.to(metric.device) for each in value] if isinstance(value, list) else value.to(metric.device)
        )
        setattr(metric, name, moved)
    metric._update_count = 1  # so that `compute` does not warn of sums of nothing
