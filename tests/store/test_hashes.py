"""Files are told apart by all of their content, and read once."""

import hashlib
import os

import pytest

from sae_nfm.store import hashes
from sae_nfm.store.hashes import file_hash


@pytest.fixture
def memory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sae_nfm" / "hashes"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(5 << 20))
    os.utime(path, (1e9, 1e9))
    return path


@pytest.fixture
def reads(monkeypatch):
    """How often a file was read."""
    seen, digest = [], hashlib.file_digest
    monkeypatch.setattr(hashes.hashlib, "file_digest", lambda *a: seen.append(1) or digest(*a))
    return seen


def change(path, place, when):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, (when, when))


def test_a_byte_anywhere_makes_another_hash(memory, file):
    found = {file_hash(file)}
    for i, place in enumerate((0, 2_500_000, (5 << 20) - 1)):
        change(file, place, 1e9 + 1 + i)
        found.add(file_hash(file))
    assert len(found) == 4
    assert file_hash(file) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_file_is_read_once_and_again_where_asked_for(memory, file, reads):
    assert file_hash(file) == file_hash(file)
    assert len(reads) == 1
    file_hash(file, remembered=False)
    assert len(reads) == 2


def test_a_file_that_has_just_changed_is_not_remembered(memory, file, reads):
    os.utime(file)
    file_hash(file)
    file_hash(file)
    assert len(reads) == 2
    assert not memory.exists()


def test_a_broken_or_unwritable_memory_costs_time_alone(memory, file, reads, monkeypatch):
    digest = file_hash(file)
    (entry,) = memory.iterdir()
    entry.write_text("half")
    assert file_hash(file) == digest
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/no/such")
    assert file_hash(file) == digest
    assert len(reads) == 3
