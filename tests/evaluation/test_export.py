import pyarrow.parquet as pq
import torch

from sae_nfm.evaluation.export import TokenExport


def test_every_token_is_in_a_shard_once(tmp_path):
    export = TokenExport(tmp_path, ["clean", "eps(sae)"], rank=1, world_size=2, rows_per_shard=25)
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


def test_what_an_interrupted_evaluation_left_is_not_read_with_the_rest(tmp_path):
    left = [f"rank-{rank}.shard-00000.{kind}" for rank in range(5) for kind in ("parquet", "partial")]
    for name in [*left, "mine.txt"]:
        (tmp_path / name).touch()
    TokenExport(tmp_path, ["clean"], rank=1, world_size=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mine.txt", *(name for name in left if int(name[5]) % 2 == 0)
    ]  # fmt: skip
    TokenExport(tmp_path, ["clean"], rank=0, world_size=2)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
