"""What a comparison finds, in sentences."""

from collections.abc import Sequence
from statistics import median

from sae_nfm.compare.correlation import spearman
from sae_nfm.compare.measures import EXPLAINED_VARIANCE, L0, MARGINAL, REDUCTION, Measure
from sae_nfm.compare.quality import Point, sae_points
from sae_nfm.compare.studies import ComparedStudy
from sae_nfm.compare.tables import counted
from sae_nfm.report.estimates import Estimate


def sentences(studies: Sequence[ComparedStudy], varied: Sequence[str]) -> list[str]:
    """The headline first; at least one."""
    return [_headline(studies), *_gains(studies), *_quality(sae_points(studies, varied))]


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
