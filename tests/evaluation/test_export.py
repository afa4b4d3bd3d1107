import pyarrow.parquet as pq
import torch

from sae_nfm.evaluation.export import TokenExport


def test_every_token_is_in_a_shard_once(tmp_path):
    export = TokenExport(tmp_path, ["clean", "eps(sae)"], rank=1, rows_per_shard=25)
    kl = torch.rand(2, 60)
    for start in range(0, 60, 10):
        n = torch.arange(start, start + 10)
        export.add(n // 7, n // 9, n % 9, n + 100, kl[:, start : start + 10])
    export.write()
    paths = sorted(tmp_path.iterdir())
    assert [path.name for path in paths] == [f"rank-1.shard-0000{i}.parquet" for i in range(2)]
    table = pq.read_table(paths).to_pydict()
    assert table["token"] == list(range(100, 160))
    assert table["document"] == [n // 7 for n in range(60)]
    torch.testing.assert_close(torch.tensor(table["kl/eps(sae)"]), kl[1])
