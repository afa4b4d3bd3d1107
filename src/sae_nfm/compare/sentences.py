"""What a comparison finds, in sentences."""

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from sae_nfm.compare.changes import Change, changes
from sae_nfm.compare.correlation import spearman
from sae_nfm.compare.differences import difference, independent
from sae_nfm.compare.measures import EXPLAINED_VARIANCE, KL_NFM, KL_SAE, L0, MARGINAL, REDUCTION, Measure
from sae_nfm.compare.objectives import RECONSTRUCTION, Trained, by_objective
from sae_nfm.compare.quality import Point, sae_points
from sae_nfm.compare.ranking import Ranking, ranking
from sae_nfm.compare.steps import KL, NFM
from sae_nfm.compare.studies import ComparedStudy
from sae_nfm.compare.tables import counted
from sae_nfm.compare.varied import named
from sae_nfm.report.estimates import Estimate, format_estimate, format_value

_OVER_SEEDS = "; means over the seeds, with their range"


def sentences(studies: Sequence[ComparedStudy], varied: Sequence[str]) -> list[str]:
    """The headline first; at least one."""
    objectives = by_objective(studies, varied)
    return [
        _headline(studies, varied),
        *_best(ranking(studies), varied),
        *_gains(studies, varied),
        *_pairing(changes(studies, varied)),
        *_objectives(objectives),
        *_quality(sae_points(studies, varied)),
    ]


def _headline(studies: Sequence[ComparedStudy], varied: Sequence[str]) -> str:
    gains = _measured(studies, REDUCTION)
    if not gains:
        return f"{counted(studies)}, none with an NFM."
    least, most = (_at(study, varied, REDUCTION) for study in (gains[0], gains[-1]))
    if len(gains) == 1:
        return f"The NFM takes {most} off the SAE's next-token KL."
    return (
        f"Over {len(gains)} studies, the NFM takes most off the SAE's next-token KL with {most}, and least "
        f"with {least}."
    )


def _best(ranked: Ranking | None, varied: Sequence[str]) -> list[str]:
    """The study with the least KL, and whether the next is behind it beyond chance.

    Where no setting tells studies apart, their folders do.
    """
    if ranked is None:
        return []
    best, second, *_ = ranked.studies
    first, next_ = (named(study, varied) or study.folder.name for study in (best, second))
    said = f"The least {ranked.measure.heading} is that of {first} ({_shown(best, ranked.measure)})"
    above = ranked.above_best.get(second.folder)
    if above is None or above.size.low is None:
        return [f"{said}; {next_} comes next."]
    more = f"has {format_estimate(above.shown)} nats/token more"
    if not above.size.excludes(0):
        more = f"is not apart from it beyond chance: {format_estimate(above.shown)} nats/token more"
    how = "paired by document" if above.paired else "of independent intervals"
    return [f"{said}; {next_}, the next, {more} ({how})."]


def _gains(studies: Sequence[ComparedStudy], varied: Sequence[str]) -> list[str]:
    """How often interactions gain anything beyond the linear part, and where most and least."""
    gains = [study for study in _measured(studies, MARGINAL) if _value(study, MARGINAL).low is not None]
    if not gains:
        return []
    helped = sum(_value(study, MARGINAL).excludes(0) and _value(study, MARGINAL).value > 0 for study in gains)
    most, least = (_at(study, varied, MARGINAL) for study in (gains[-1], gains[0]))
    where = f": {most} of the KL" if len(gains) == 1 else f": most with {most} of the KL, least with {least}"
    return [
        f"In {helped} of {len(gains)} studies the 95% interval of what interactions gain beyond the linear "
        f"part lies above 0{where}."
    ]


def _pairing(found: Sequence[Change]) -> list[str]:
    """How the studies that differ in one setting are compared."""
    pairs = [pair for change in found for pair in change.pairs]
    has_nfm = any(study.values[KL_NFM.name] for pair in pairs for study in pair)
    measure = KL_NFM if has_nfm else KL_SAE
    sizes = [(each, independent(measure, pair)) for pair in pairs if (each := difference(measure, pair))]
    paired = [(each.size, alone) for each, alone in sizes if each.paired and _width(alone)]
    if not sizes:
        return []
    if not paired:
        return [
            f"{_pairs(len(sizes))} in one setting; without sums over the same documents they are compared by "
            "independent intervals, which are wider than they need be."
        ]
    wide = median(_width(size) / _width(alone) for size, alone in paired)
    rest = len(sizes) - len(paired)
    others = f"; {rest} more share no documents and are taken as independent" if rest else ""
    return [
        f"{_pairs(len(paired))} in one setting and were scored on the same documents, by which their "
        f"differences are paired: for the {measure.heading}, intervals are {wide:.0%} as wide as independent "
        f"ones in the median{others}."
    ]


def _pairs(num: int) -> str:
    return f"{num} pairs of studies differ" if num > 1 else "1 pair of studies differs"


def _width(shown: Estimate) -> float:
    return 0.0 if shown.low is None or shown.high is None else shown.high - shown.low


def _measured(studies: Sequence[ComparedStudy], measure: Measure) -> list[ComparedStudy]:
    """The studies that have the measure, the least first."""
    return sorted(
        (study for study in studies if study.values[measure.name]), key=lambda study: _value(study, measure)
    )


def _value(study: ComparedStudy, measure: Measure) -> Estimate:
    read = study.values[measure.name]
    assert read is not None
    return read


def _at(study: ComparedStudy, varied: Sequence[str], measure: Measure) -> str:
    """A study by name, with its figure: `layer=3 (14.2% [13.9, 14.5])`; without a name the figure alone."""
    shown = _shown(study, measure)
    return f"{named(study, varied)} ({shown})" if varied else shown


def _shown(study: ComparedStudy, measure: Measure) -> str:
    shown = format_estimate(_value(study, measure), measure.decimals, measure.unit).replace("-", "−")
    return f"{shown} {measure.nats}".rstrip()


class _Outcome(NamedTuple):
    trained: Trained
    kl: float  # of SAE + NFM
    share: Estimate  # that interactions take off the best linear reconstruction's KL


def _objectives(groups: Sequence[Trained]) -> list[str]:
    """What the objective with the least KL buys, and what interactions then do, against reconstruction."""
    found = [
        _Outcome(trained, kl.value, share)
        for trained in groups
        if (kl := trained.read(NFM, KL)) and (share := trained.marginal)
    ]
    if len({outcome.trained.objective for outcome in found}) < 2:
        return []
    best = min(found, key=lambda outcome: outcome.kl)
    alike = [outcome for outcome in found if outcome.trained.others == best.trained.others]
    fitted = next((o for o in alike if o.trained.objective == RECONSTRUCTION and o is not best), None)
    gain, compared = "the least KL of all objectives", ""
    if fitted:
        less = format_value(Estimate(1 - best.kl / fitted.kl), 0, "%")
        gain, compared = f"{less} less KL than for {RECONSTRUCTION}", f" ({RECONSTRUCTION}: {_share(fitted)})"
    pooled = any(len(outcome.trained.studies) > 1 for outcome in (best, fitted) if outcome)
    return [
        f"Trained for {best.trained.name}, the SAE + NFM has {gain}, and interactions take {_share(best)} "
        f"off what the best linear reconstruction leaves{compared}{_OVER_SEEDS if pooled else ''}."
    ]


def _share(outcome: _Outcome) -> str:
    return format_estimate(outcome.share, 1, "%").replace("-", "−")


def _quality(points: Sequence[Point]) -> list[str]:
    """Whether a better SAE leaves less for the NFM; the seeds of one SAE count once."""
    explained, gain, l0 = (_values(points, measure) for measure in (EXPLAINED_VARIANCE, REDUCTION, L0))
    rho = spearman(explained, gain)
    if rho is None:
        return []
    num_studies = sum(len(point.studies) for point in points)
    of = "" if num_studies == len(points) else f" of {len(points)} SAEs, each the mean over its seeds"
    said = (
        f"Over {num_studies} studies{of}, the NFM's reduction {_moves(rho)} with the explained variance "
        f"of the SAE: Spearman's ρ {_written(rho)}"
    )
    at_equal_l0 = spearman(explained, gain, l0) if len(l0) == len(points) else None
    also = f"; at equal L0 (partial correlation of ranks) {_written(at_equal_l0)}" if at_equal_l0 else ""
    return [f"{said}{also}."]


def _values(points: Sequence[Point], measure: Measure) -> list[float]:
    return [read.value for point in points if (read := point.read(measure))]


def _moves(rho: Estimate) -> str:
    if rho.low is not None and not rho.excludes(0):
        return "neither rises nor falls beyond chance"
    return "rises" if rho.value > 0 else "falls"


def _written(rho: Estimate) -> str:
    interval = "" if rho.low is None else f" (95% interval {rho.low:.2f} to {rho.high:.2f})"
    return f"{rho.value:.2f}{interval}".replace("-", "−")
