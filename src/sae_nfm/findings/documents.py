"""`documents.parquet`: sums by document, of which differences between studies are made."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sae_nfm.findings.summary import Summary
from sae_nfm.store.files import replacing

NAME = "documents.parquet"
_MEASURES = ("kl", "mse")


def write_documents(summary: Summary, scored_on: str, folder: Path) -> Path:
    """Write a row per scored document, beside `result.json`, whole or not at all.

    Columns are the number of the `document` in its split, its scored `tokens`, and the sum over them of the
    KL in nats (`kl/<condition>`, a mean over draws) and of the squared error per dimension
    (`mse/<condition>`).

    Args:
        summary: of the evaluation.
        scored_on: fingerprint of the text and the positions, equal where two evaluations scored the same.
        folder: of the study.
    """
    columns: dict[str, np.ndarray] = {
        "document": np.flatnonzero(summary.sums["tokens_by_document"]).astype(np.int32),
        "tokens": summary.tokens.astype(np.int32),
    }
    for measure in _MEASURES:
        for name in summary.names:
            columns[f"{measure}/{name}"] = summary.documents(measure, name).astype(np.float32)
    table = pa.table(columns).replace_schema_metadata({"scored_on": scored_on})
    with replacing(folder / NAME) as partial:
        pq.write_table(table, partial, compression="zstd")
    return folder / NAME
