"""Which study has the least KL, and how far the others are from it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sae_nfm.compare.differences import Difference, difference
from sae_nfm.compare.measures import KL_NFM, KL_SAE, Measure
from sae_nfm.compare.studies import ComparedStudy


class Ranking(NamedTuple):
    """The studies by their KL, the least first."""

    measure: Measure
    studies: list[ComparedStudy]
    above_best: dict[Path, Difference]
    """How much more KL each has than the first, by folder."""


def ranking(studies: Sequence[ComparedStudy]) -> Ranking | None:
    """Rank by the KL of SAE and NFM or, where no study has an NFM, of the SAE.

    Returns:
        The ranking; None of fewer than two studies, or of several models, sites or texts: their KLs are no
        better or worse than each other's.
    """
    measure = KL_NFM if any(study.values[KL_NFM.name] for study in studies) else KL_SAE
    read = {study.folder: (found.value, study) for study in studies if (found := study.values[measure.name])}
    ranked = [study for _, study in sorted(read.values(), key=lambda pair: pair[0])]
    if len(ranked) < 2 or len({study.about.ground for study in ranked}) > 1:
        return None
    above = {study.folder: difference(measure, (ranked[0], study)) for study in ranked[1:]}
    return Ranking(measure, ranked, {folder: found for folder, found in above.items() if found})
