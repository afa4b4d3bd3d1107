"""Sums by document, which a study leaves beside its result: what paired differences are made of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from sae_nfm.report.conditions import matched, of_role
from sae_nfm.report.estimates import condition_kl, lookup

NAME = "documents.parquet"
_ROUNDING = 1e-5  # by which a mean of sums in float32 may differ from the result's


class Replicated(NamedTuple):
    """A figure, and the same without each of the documents."""

    value: float
    without: Float[np.ndarray, " document"]


class DocumentSums(NamedTuple):
    """Sums over the scored tokens of each document."""

    scored_on: str
    """Equal where two studies scored the same positions of the same text."""
    tokens: Float[np.ndarray, " document"]
    sums: Mapping[str, Float[np.ndarray, " document"]]
    """Nats or squared error, by measure and role: `kl/nfm`."""

    def mean(self, of: str) -> Replicated | None:
        """Per token; None where it was not measured."""
        return self._over(of, self.tokens)

    def ratio(self, above: str, below: str) -> Replicated | None:
        """One mean over another; None where one was not measured."""
        return self._over(above, self.sums[below]) if below in self.sums else None

    def reduction(self, above: str, below: str) -> Replicated | None:
        """1 − ratio."""
        ratio = self.ratio(above, below)
        return None if ratio is None else Replicated(1 - ratio.value, 1 - ratio.without)

    def _over(self, of: str, below: Float[np.ndarray, " document"]) -> Replicated | None:
        if of not in self.sums:
            return None
        sums = self.sums[of]
        with np.errstate(invalid="ignore", divide="ignore"):
            return Replicated(float(sums.sum() / below.sum()), (sums.sum() - sums) / (below.sum() - below))


def read_documents(folder: Path, result: Mapping[str, Any]) -> DocumentSums | None:
    """The sums beside a result; None where there are none.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, or its means are not the result's.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    with pq.ParquetFile(path) as file:
        there, about = file.schema_arrow.names, file.schema_arrow.metadata or {}
        columns = {key: column for key, column in _columns(result).items() if column in there}
        table = file.read(columns=["tokens", *columns.values()])
    found = DocumentSums(
        scored_on=about.get(b"scored_on", b"").decode(),
        tokens=_array(table, "tokens"),
        sums={key: _array(table, column) for key, column in columns.items()},
    )
    _check(found, result)
    return found


def _columns(result: Mapping[str, Any]) -> dict[str, str]:
    """The columns that measures are made of, by measure and role; `linear` is the best linear one."""
    sae, nfm = of_role(result, "sae"), of_role(result, "nfm")
    alone = of_role(result, "linear_alone") or of_role(result, "linear")
    names = {
        "kl/sae": sae,
        "kl/nfm": nfm,
        "kl/linear": lookup(result, "marginal_interaction", "against") or alone,
        "kl/eps(sae)": matched(result, sae, "eps"),
        "kl/eps(nfm)": matched(result, nfm, "eps"),
        "mse/sae": sae,
        "mse/nfm": nfm,
    }
    return {key: f"{key.partition('/')[0]}/{name}" for key, name in names.items() if name is not None}


def _array(table: pa.Table, column: str) -> Float[np.ndarray, " document"]:
    return table[column].to_numpy().astype(np.float64)


def _check(found: DocumentSums, result: Mapping[str, Any]) -> None:
    """Raise a `ValueError` where the sums are those of another evaluation."""
    for role in ("sae", "nfm"):
        mine, own = found.mean(f"kl/{role}"), condition_kl(result, of_role(result, role))
        if mine and own and abs(mine.value - own.value) > _ROUNDING * abs(own.value):
            raise ValueError(f"its KL of the {role} is {mine.value:.6g}, that of result.json {own.value:.6g}")
