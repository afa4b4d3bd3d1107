"""Token-level results as parquet shards, written while the evaluation runs."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int64
from torch import Tensor


class TokenExport:
    """Rows of document, block, position, token and the KL of every condition (a mean over its draws).

    Args:
        folder: gets `rank-R.shard-N.parquet`; each appears only when it is whole.
        conditions: names of the KL columns.
        rank: this process.
        world_size: of how many; what an evaluation of more, or of this one, has left is deleted.
        rows_per_shard: rows held in memory before a shard is written.
    """

    def __init__(
        self, folder: Path, conditions: list[str], rank: int, world_size: int, rows_per_shard: int = 1 << 18
    ) -> None:
        self.folder, self.conditions, self.rank = folder, conditions, rank
        self.rows_per_shard = rows_per_shard
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("rank-*"):
            other = int(path.name.removeprefix("rank-").partition(".")[0])
            if other % world_size == rank:
                path.unlink(missing_ok=True)
        self._tables: list[pa.Table] = []
        self._num_shards = 0

    def add(
        self,
        documents: Int64[Tensor, " token"],
        blocks: Int64[Tensor, " token"],
        positions: Int64[Tensor, " token"],
        tokens: Int64[Tensor, " token"],
        kl: Float[Tensor, "condition token"],
    ) -> None:
        """Add scored tokens, and write a shard when enough are there."""
        columns = {"document": documents, "block": blocks, "position": positions, "token": tokens}
        arrays = {name: column.cpu().int().numpy() for name, column in columns.items()}
        arrays |= {
            f"kl/{name}": row.float().cpu().numpy() for name, row in zip(self.conditions, kl, strict=True)
        }
        self._tables.append(pa.table(arrays))
        if sum(len(table) for table in self._tables) >= self.rows_per_shard:
            self.write()

    def write(self) -> None:
        """Write what is held, if anything is."""
        if not self._tables:
            return
        path = self.folder / f"rank-{self.rank}.shard-{self._num_shards:05d}.parquet"
        partial = path.with_suffix(".partial")
        pq.write_table(pa.concat_tables(self._tables), partial)
        partial.replace(path)
        self._tables, self._num_shards = [], self._num_shards + 1
