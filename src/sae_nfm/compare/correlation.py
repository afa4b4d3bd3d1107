"""Rank correlation with its interval."""

import math
from collections.abc import Sequence
from typing import Any

from scipy.special import ndtri
from scipy.stats import spearmanr

from sae_nfm.report.estimates import Estimate

FEWEST = 6
"""Pairs of values from which there is an interval, with another variable held equal or without."""


def spearman(x: Sequence[float], y: Sequence[float], given: Sequence[float] | None = None) -> Estimate | None:
    """Spearman's ρ with its 95% interval, by Fisher's z with the variance of Bonett and Wright (2000).

    Args:
        x: one value of every pair.
        y: the other.
        given: a third variable that is held equal, as in the partial correlation of ranks.

    Returns:
        The estimate; None where there are fewer than `FEWEST` pairs, or a variable takes one value only, or
        the third one determines another.
    """
    if len(x) < FEWEST or any(len(set(values)) < 2 for values in (x, y, given or x)):
        return None
    rho = _rho(x, y)
    if given is not None:
        of_x, of_y = _rho(x, given), _rho(y, given)
        left = (1 - of_x**2) * (1 - of_y**2)
        if left < 1e-12:
            return None
        rho = (rho - of_x * of_y) / math.sqrt(left)
    if abs(rho) > 1 - 1e-12:
        return Estimate(math.copysign(1, rho))  # z is infinite
    width = ndtri(0.975) * math.sqrt((1 + rho**2 / 2) / (len(x) - 3 - (given is not None)))
    z = math.atanh(rho)
    return Estimate(rho, math.tanh(z - width), math.tanh(z + width))


def _rho(x: Sequence[float], y: Sequence[float]) -> float:
    found: Any = spearmanr(x, y)
    return float(found.statistic)
