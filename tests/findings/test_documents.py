"""Sums by document beside a result: what is in the file, and what of a write that fails."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from sae_nfm.findings.documents import write_documents
from scored_tokens import NAMES, Tokens, summary_of


def test_the_file_holds_the_sums_of_every_scored_document(tmp_path):
    tokens = Tokens()
    table = pq.read_table(write_documents(summary_of(tokens), "here", tmp_path / "study"))
    assert table.schema.metadata[b"scored_on"] == b"here"
    assert table["document"].to_pylist() == np.unique(tokens.documents[tokens.scored]).tolist()
    assert table["tokens"].to_numpy() == pytest.approx(tokens.tokens_by_document())
    for name in NAMES:
        for measure in ("kl", "mse"):
            sums = tokens.by_document(name, measure)
            assert table[f"{measure}/{name}"].to_numpy() == pytest.approx(sums, rel=1e-6)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = write_documents(summary_of(Tokens()), "before", tmp_path)

    def full(table, partial, **_):
        partial.write_bytes(b"half of")
        raise OSError("no space left")

    monkeypatch.setattr("sae_nfm.findings.documents.pq.write_table", full)
    with pytest.raises(OSError, match="no space left"):
        write_documents(summary_of(Tokens()), "after", tmp_path)
    assert pq.read_schema(path).metadata[b"scored_on"] == b"before"
    assert [each.name for each in tmp_path.iterdir()] == ["documents.parquet"]
