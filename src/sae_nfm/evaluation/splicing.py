"""Every draw of every condition through the suffix, several stacked, against the clean run."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_nfm.baselines.matched import Target
from sae_nfm.baselines.spliceable import Spliceable
from sae_nfm.evaluation.clean import CleanRun
from sae_nfm.evaluation.condition import Condition
from sae_nfm.evaluation.reconstructions import Replacement
from sae_nfm.lm.model import LanguageModel
from sae_nfm.lm.site import Site
from sae_nfm.measures.divergence import divergence


class Spliced(NamedTuple):
    """One draw of one condition, before the suffix."""

    number: int
    """Of the condition."""
    activation: Float[Tensor, "block pos d_model"]
    """What goes on from the site."""
    distances: Float[Tensor, "distance block pos"]
    """How far that is from what was there."""


class Measured(NamedTuple):
    """What became of all conditions."""

    by_measure: Float[Tensor, "measure condition block pos"]
    """Means over draws."""
    kl_draws: list[Float[Tensor, "_draw block pos"]]
    """Every KL of every condition."""


class Splicing:
    """Splices the conditions of an evaluation into the model.

    Args:
        lm: the model.
        site: where.
        conditions: what to splice in; the first is `clean`.
        replacements: by name.
        rows: blocks under some condition that go through the suffix at once.
        partly: whether scored positions may keep their activation.
    """

    def __init__(
        self,
        lm: LanguageModel,
        site: Site,
        conditions: list[Condition],
        replacements: Mapping[str, Replacement],
        rows: int,
        partly: bool,
    ) -> None:
        self.lm, self.site, self.rows, self.partly = lm, site, rows, partly
        self.conditions, self.replacements = conditions, replacements
        self.bank_errors: dict[str, Tensor] = {}

    def read_bank(self, bank: Spliceable) -> None:
        """Keep R − x on the bank's activations, for every R that a baseline wants it of."""
        wanted = {
            c.reconstruction for c in self.conditions if c.baseline and c.baseline.needs == "bank_error"
        }
        self.bank_errors = {name: (self.replacements[name](bank) - bank.x)[0] for name in wanted if name}

    def measure(
        self,
        batch: Spliceable,
        replaced: Bool[Tensor, "block pos"],
        run: CleanRun,
    ) -> Measured:
        """Run every draw of every condition.

        Args:
            batch: what replacements are made of.
            replaced: positions that get the replacement.
            run: the clean run.
        """
        draws: list[list[Tensor]] = [[] for _ in self.conditions]
        spliced = self._spliced(batch, run.activation, replaced)
        number, _, distances = next(spliced)  # the first condition is the clean run itself
        draws[number].append(torch.cat([run.measured, distances]))
        stack = max(1, self.rows // len(replaced))
        for each, found in self._found(spliced, run, stack):
            draws[each.number].append(torch.cat([found, each.distances]))
        values = [torch.stack(each) for each in draws]
        return Measured(torch.stack([v.mean(0) for v in values], dim=1), [v[:, 0] for v in values])

    def _found(
        self, spliced: Iterator[Spliced], run: CleanRun, stack: int
    ) -> Iterator[tuple[Spliced, Float[Tensor, "measure block pos"]]]:
        """What each activation does, of which those that are not known go through the suffix together."""

        def unknown() -> Iterator[Spliced]:
            for each in spliced:
                if run.known is not None and (values := run.known.get(each.activation)) is not None:
                    known.append((each, values))
                else:
                    yield each

        known: list[tuple[Spliced, Tensor]] = []
        for group in _grouped(unknown(), stack):
            for each, values in zip(group, self._through(group, run), strict=True):
                if run.known is not None:
                    run.known.keep(each.activation, values)
                yield each, values
        yield from known

    def _through(self, group: list[Spliced], run: CleanRun) -> list[Float[Tensor, "measure block pos"]]:
        """What activations do; the logits, which are large, end with this function."""
        stacked = torch.cat([each.activation for each in group])
        logits = self.lm.suffix(stacked, run.prefix.resid.repeat(len(group), 1, 1), self.site)
        return [divergence(run.clean, part) for part in logits.split(len(run.activation))]

    def _spliced(self, batch: Spliceable, activation: Tensor, replaced: Tensor) -> Iterator[Spliced]:
        made = {name: make(batch) for name, make in self.replacements.items()}
        for number, condition in enumerate(self.conditions):
            for draw in range(condition.draws):
                out = batch.x
                if condition.reconstruction is not None:
                    out = made[condition.reconstruction]
                    if condition.baseline is not None:
                        target = Target(out, self.bank_errors.get(condition.reconstruction))
                        out = condition.baseline(batch, target, draw)
                if self.partly:  # what is scored and stays is at no distance
                    out = torch.where(replaced.unsqueeze(-1), out, batch.x)
                error = (out - batch.x).norm(dim=-1)
                cosine = torch.cosine_similarity(out, batch.x, dim=-1)
                distances = torch.stack([error.pow(2) / out.shape[-1], error, cosine])
                yield Spliced(number, torch.where(replaced.unsqueeze(-1), out, activation), distances)


def _grouped(items: Iterator[Spliced], size: int) -> Iterator[list[Spliced]]:
    group = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
