"""What a comparison finds, in sentences."""

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from sae_nfm.compare.correlation import spearman
from sae_nfm.compare.measures import EXPLAINED_VARIANCE, L0, MARGINAL, REDUCTION, Measure
from sae_nfm.compare.objectives import RECONSTRUCTION, Trained, by_objective
from sae_nfm.compare.quality import Point, sae_points
from sae_nfm.compare.steps import KL, NFM
from sae_nfm.compare.studies import ComparedStudy
from sae_nfm.compare.tables import counted
from sae_nfm.report.estimates import Estimate, format_estimate, format_value

_OVER_SEEDS = "; means over the seeds, with their range"


def sentences(studies: Sequence[ComparedStudy], varied: Sequence[str]) -> list[str]:
    """The headline first; at least one."""
    objectives = by_objective(studies, varied)
    return [
        _headline(studies),
        *_gains(studies),
        *_objectives(objectives),
        *_quality(sae_points(studies, varied)),
    ]


def _headline(studies: Sequence[ComparedStudy]) -> str:
    gains = [read.value for study in studies if (read := study.values[REDUCTION.name])]
    if not gains:
        return f"{counted(studies)}, none with an NFM."
    spread = f"{100 * min(gains):.1f}% to {100 * max(gains):.1f}%"
    return (
        f"Over {len(gains)} studies, the NFM's reduction of the SAE's next-token KL runs from {spread}, "
        f"{100 * median(gains):.1f}% in the median."
    )


def _gains(studies: Sequence[ComparedStudy]) -> list[str]:
    """How often interactions gain anything beyond the linear part."""
    shares = [read for study in studies if (read := study.values[MARGINAL.name]) and read.low is not None]
    if not shares:
        return []
    helped = sum(share.excludes(0) and share.value > 0 for share in shares)
    return [
        f"In {helped} of {len(shares)} studies the 95% interval of what interactions gain beyond the linear "
        f"part lies above 0; the median gain is {100 * median(s.value for s in shares):.2f}% of the KL."
    ]


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
