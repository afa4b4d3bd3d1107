"""What a comparison reads from every study."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sae_nfm.compare.documents import DocumentSums, Replicated
from sae_nfm.report.conditions import of_role
from sae_nfm.report.estimates import (
    Estimate,
    condition_kl,
    estimate,
    kl_reduction,
    lookup,
    mse_reduction,
    pathology,
)

_NATS = "nats/token"


class Measure(NamedTuple):
    """One number of a study, with how it is named and written."""

    name: str  # in compare.csv
    heading: str
    read: Callable[[Mapping[str, Any]], Estimate | None]
    unit: str = ""  # `%`: a share, shown times 100
    decimals: int = 3  # at least
    by_document: Callable[[DocumentSums], Replicated | None] | None = None
    """The same figure made of sums by document; None where it is no matter of documents."""
    nats: str = ""
    """The unit on an axis, of a divergence."""

    @property
    def axis_label(self) -> str:
        """The heading with its unit, for a figure."""
        unit = self.unit if self.unit == "%" else self.nats
        return f"{self.heading}, {unit}" if unit else self.heading

    @property
    def difference_label(self) -> str:
        """The heading with the unit of a difference."""
        unit = "pp" if self.unit == "%" else self.nats
        return f"{self.heading}, {unit}" if unit else self.heading

    def plotted(self, shown: Estimate) -> Estimate:
        """The estimate in the unit of the axis label."""
        return shown.scaled(100) if self.unit == "%" else shown


def _at(*keys: str) -> Callable[[Mapping[str, Any]], Estimate | None]:
    return lambda result: estimate(lookup(result, *keys))


def _residual_explained(result: Mapping[str, Any]) -> Estimate | None:
    """By the NFM as the last stage that trains it leaves it; `nfm` of results before there were stages."""
    stages = (result.get("stages") or {}).items()
    trained = ["nfm", *(name for name, stage in stages if {"linear", "interaction"} & set(stage["parts"]))]
    return _at("validation", trained[-1], "residual_explained")(result)


def _of(
    role: str, read: Callable[[Mapping[str, Any], str | None], Estimate | None]
) -> Callable[[Mapping[str, Any]], Estimate | None]:
    """Read a figure of the first condition that has a role."""
    return lambda result: read(result, of_role(result, role))


EXPLAINED_VARIANCE = Measure(
    "explained_variance", "explained variance", _at("sae", "explained_variance"), "%", 1
)
L0 = Measure("l0", "L0", _at("sae", "l0"), decimals=1)
KL_SAE = Measure(
    "kl_sae", "KL of SAE", _of("sae", condition_kl), by_document=lambda d: d.mean("kl/sae"), nats=_NATS
)
KL_NFM = Measure(
    "kl_sae_nfm",
    "KL of SAE + NFM",
    _of("nfm", condition_kl),
    by_document=lambda d: d.mean("kl/nfm"),
    nats=_NATS,
)
PATHOLOGY_SAE = Measure(
    "pathology_sae", "SAE ÷ ε", _of("sae", pathology), "×", 2, lambda d: d.ratio("kl/sae", "kl/eps(sae)")
)
PATHOLOGY_NFM = Measure(
    "pathology_sae_nfm", "SAE + NFM ÷ ε", _of("nfm", pathology), "×", 2,
    lambda d: d.ratio("kl/nfm", "kl/eps(nfm)"),
)  # fmt: skip
REDUCTION = Measure(
    "reduction", "KL reduction", _of("nfm", kl_reduction), "%", 1, lambda d: d.reduction("kl/nfm", "kl/sae")
)
MSE_REDUCTION = Measure(
    "mse_reduction", "MSE reduction", _of("nfm", mse_reduction), "%", 1,
    lambda d: d.reduction("mse/nfm", "mse/sae"),
)  # fmt: skip
MARGINAL = Measure(
    "marginal_interaction_share", "marginal interaction", _at("marginal_interaction", "share"), "%", 2,
    lambda d: d.reduction("kl/nfm", "kl/linear"),
)  # fmt: skip
RESIDUAL_EXPLAINED = Measure(
    "validation_residual_explained", "residual explained (validation)",
    _residual_explained, "%", 1,
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
