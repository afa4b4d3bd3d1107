"""Activations on disk: what is read is what was streamed, in a new order every round."""

import shutil
from types import SimpleNamespace

import pytest
import torch

from sae_nfm.data.activations import ActivationStream
from sae_nfm.data.cache import ActivationCache, CachedActivations
from sae_nfm.lm.site import Site
from sae_nfm.store.files import CorruptedArtifact
from sae_nfm.store.store import Store

SITE = Site(1, "resid_post")
TOKENS, PER_SHARD = 1000, 130
CPU = torch.device("cpu")


def stream_of(lm, splits):
    return ActivationStream(lm, SITE, splits.train, 5, 0)


def cache_of(lm, dtype="float32"):
    width = lm.d_model * (4 if dtype == "float32" else 2)
    return ActivationCache(dtype, tokens=None, shard_bytes=PER_SHARD * width)


def cached(lm, splits, folder, dtype="float32", seed=0):
    cache = cache_of(lm, dtype)
    cache.write(stream_of(lm, splits), TOKENS, folder)
    return CachedActivations(cache, folder, TOKENS, lm.d_model, seed, CPU)


def rows(x):
    return sorted(map(tuple, x.tolist()))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_round_holds_every_activation_once(lm, splits, tmp_path, dtype):
    found = cached(lm, splits, tmp_path, dtype).read(0, TOKENS)
    expected = stream_of(lm, splits).read(0, TOKENS).to(found.dtype)
    assert str(found.dtype) == f"torch.{dtype}"
    assert rows(found) == rows(expected)
    assert len(list(tmp_path.glob("*.bin"))) == 8  # seven whole shards and a part of one


def test_rounds_and_seeds_have_orders_of_their_own(lm, splits, tmp_path):
    first = cached(lm, splits, tmp_path)
    other = cached(lm, splits, tmp_path, seed=1).read(0, TOKENS)
    one, two = first.read(0, TOKENS), first.read(TOKENS, 2 * TOKENS)
    assert not torch.equal(one, two)
    assert not torch.equal(one, other)
    assert rows(one) == rows(two) == rows(other)


def test_a_token_is_the_same_however_it_is_read(lm, splits, tmp_path):
    whole = cached(lm, splits, tmp_path).read(0, 2 * TOKENS)
    again = cached(lm, splits, tmp_path)
    for start, stop in ((1500, 1700), (990, 1010), (0, 7), (3, 4)):
        assert torch.equal(again.read(start, stop), whole[start:stop])


def test_neighbours_on_disk_are_spread_over_the_round(lm, splits, tmp_path):
    sequence = cached(lm, splits, tmp_path)
    places = torch.from_numpy(sequence._order(0).astype("int64"))
    shards = (places[:200] // PER_SHARD).unique()
    assert len(shards) == 8


def test_whole_shards_of_an_interrupted_call_are_kept_and_partial_ones_are_not(lm, splits, tmp_path):
    cache, stream = cache_of(lm), stream_of(lm, splits)
    cache.write(stream, TOKENS, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.bin")}
    kept, lost = sorted(tmp_path.glob("*.bin"))[:2]
    lost.rename(lost.with_suffix(".partial"))
    written = kept.stat().st_mtime_ns
    cache.write(stream, TOKENS, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.bin")} == before
    assert kept.stat().st_mtime_ns == written
    assert not list(tmp_path.glob("*.partial"))


def test_a_disk_that_is_too_small_is_named_first(lm, splits, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=100_000))
    with (
        caplog.at_level("INFO"),
        pytest.raises(ValueError, match="cached: 1,000 tokens") as error,
    ):
        cache_of(lm).write(stream_of(lm, splits), TOKENS, tmp_path)
    assert f"activations.tokens up to {100_000 // (4 * lm.d_model)}" in str(error.value)
    assert str(error.value).count("\n") < 9
    assert "0.00 GiB on disk" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_changed_shard_is_refused(lm, splits, tmp_path):
    store, cache = Store(tmp_path), cache_of(lm)
    folder = store.fetch("activations", {}, lambda f: cache.write(stream_of(lm, splits), TOKENS, f))
    shard = sorted(folder.glob("*.bin"))[3]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CorruptedArtifact, match=shard.name):
        store.fetch("activations", {}, lambda f: pytest.fail("made again"))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"dtype": "float16"}, "dtype=float16: allowed are bfloat16, float32"),
        ({"tokens": 0}, "tokens=0: allowed are null and whole numbers from 1"),
        ({"shard_bytes": 0}, "shard_bytes=0: allowed are whole numbers from 1"),
    ],
)
def test_settings_out_of_range_are_named(settings, named):
    with pytest.raises(ValueError, match=named):
        ActivationCache(**{"dtype": "bfloat16", "tokens": None, "shard_bytes": 1} | settings)
