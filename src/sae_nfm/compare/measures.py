"""What a comparison reads from every study."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sae_nfm.report.estimates import (
    Estimate,
    condition_kl,
    estimate,
    kl_ratio,
    kl_reduction,
    lookup,
    mse_reduction,
)


class Measure(NamedTuple):
    """One number of a study, with how it is named and written."""

    name: str  # in compare.csv
    heading: str
    read: Callable[[Mapping[str, Any]], Estimate | None]
    unit: str = ""  # `%`: a share, shown times 100
    decimals: int = 3  # at least

    @property
    def axis_label(self) -> str:
        """The heading with its unit, for a figure."""
        return f"{self.heading}, %" if self.unit == "%" else self.heading

    def plotted(self, shown: Estimate) -> Estimate:
        """The estimate in the unit of the axis label."""
        return shown.scaled(100) if self.unit == "%" else shown


def _at(*keys: str) -> Callable[[Mapping[str, Any]], Estimate | None]:
    return lambda result: estimate(lookup(result, *keys))


EXPLAINED_VARIANCE = Measure(
    "explained_variance", "explained variance", _at("sae", "explained_variance"), "%", 1
)
L0 = Measure("l0", "L0", _at("sae", "l0"), decimals=1)
KL_SAE = Measure("kl_sae", "KL of SAE", lambda result: condition_kl(result, "sae"))
KL_NFM = Measure("kl_sae_nfm", "KL of SAE + NFM", lambda result: condition_kl(result, "sae_nfm"))
PATHOLOGY_SAE = Measure(
    "pathology_sae", "SAE ÷ ε", lambda result: kl_ratio(result, "sae", "eps(sae)"), "×", 2
)
PATHOLOGY_NFM = Measure(
    "pathology_sae_nfm", "SAE + NFM ÷ ε", lambda result: kl_ratio(result, "sae_nfm", "eps(sae_nfm)"), "×", 2
)
REDUCTION = Measure("reduction", "KL reduction", lambda result: kl_reduction(result, "sae_nfm"), "%", 1)
MSE_REDUCTION = Measure(
    "mse_reduction", "MSE reduction", lambda result: mse_reduction(result, "sae_nfm"), "%", 1
)
MARGINAL = Measure(
    "marginal_interaction_share", "marginal interaction", _at("marginal_interaction", "share"), "%", 2
)
RESIDUAL_EXPLAINED = Measure(
    "validation_residual_explained", "residual explained (validation)",
    _at("validation", "nfm", "residual_explained"), "%", 1,
)  # fmt: skip
SHARE_OF_BOUND = Measure("share_of_codes_bound", "of codes_bound", _at("share_of_codes_bound", "kl"), "%", 0)
MEASURES = (
    EXPLAINED_VARIANCE,
    L0,
    KL_SAE,
    KL_NFM,
    PATHOLOGY_SAE,
    PATHOLOGY_NFM,
    REDUCTION,
    MSE_REDUCTION,
    MARGINAL,
    RESIDUAL_EXPLAINED,
    SHARE_OF_BOUND,
)
