"""What one setting changes: studies that are equal in all others, held against each other."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from sae_nfm.compare.differences import Difference, Pair, mean_difference
from sae_nfm.compare.measures import KL_NFM, KL_SAE, MARGINAL, REDUCTION, Measure
from sae_nfm.compare.studies import ComparedStudy
from sae_nfm.compare.varied import distinct, numeric, short, text

COMPARED = (KL_SAE, KL_NFM, REDUCTION, MARGINAL)
"""The measures whose differences are shown."""


class Change(NamedTuple):
    """A setting that goes from one value to another, and the studies that differ in nothing else."""

    setting: str
    along: list[str]  # settings that always change with it
    before: str
    after: str
    pairs: list[Pair]

    @property
    def name(self) -> str:
        """As in `layer 3 → 4`."""
        along = f" (with {', '.join(map(short, self.along))})" if self.along else ""
        return f"{short(self.setting)} {self.before} → {self.after}{along}"

    def of(self, measure: Measure) -> Difference | None:
        """The mean difference over the pairs that have the measure."""
        return mean_difference(measure, self.pairs)


def moved(found: Sequence[Change]) -> list[Measure]:
    """The measures that any step changes: the KL of an SAE that all studies share is none."""
    return [m for m in COMPARED if any((size := change.of(m)) and size.size.value for change in found)]


def changes(studies: Sequence[ComparedStudy], varied: Sequence[str]) -> list[Change]:
    """Every setting but the seed: numbers from each value to the next, options from one to all others.

    Settings that go together, as a width that grows with a sparsity, are one, named by the first. Of
    studies that are equal in every setting the first is taken.
    """
    found = []
    for key, *along in settings_apart(studies, varied):
        others = [other for other in varied if other not in (key, *along)]
        cells: dict[tuple[str, ...], dict[str, ComparedStudy]] = {}
        for study in studies:
            rest = tuple(text(study.setting(other)) for other in others)
            cells.setdefault(rest, {}).setdefault(text(study.setting(key)), study)
        for before, after in _steps(studies, key):
            pairs = [(cell[before], cell[after]) for cell in cells.values() if {before, after} <= set(cell)]
            if pairs:
                found.append(Change(key, along, before, after, pairs))
    return found


def settings_apart(studies: Sequence[ComparedStudy], varied: Sequence[str]) -> list[list[str]]:
    """The varied settings, those that always change together in one list, and no seeds."""
    found: dict[tuple[int, ...], list[str]] = {}
    for key in varied:
        if key != "seed":
            values = [text(study.setting(key)) for study in studies]
            found.setdefault(tuple(map(values.index, values)), []).append(key)
    return list(found.values())


def _steps(studies: Sequence[ComparedStudy], key: str) -> list[tuple[str, str]]:
    """What is held against what: neighbours of numbers, and of options all against one."""
    values = distinct(studies, key)
    if numeric(values):
        return list(itertools.pairwise(map(text, values)))
    first = _reference(studies, key, [text(value) for value in values])
    return [(first, text(value)) for value in values if text(value) != first]


def _reference(studies: Sequence[ComparedStudy], key: str, values: Sequence[str]) -> str:
    """`none`, as of an ablation, or else the first; one with an NFM before one without."""
    with_nfm = {text(study.setting(key)) for study in studies if study.values[KL_NFM.name]}
    return min(values, key=lambda value: (value not in with_nfm, value != "none", values.index(value)))
