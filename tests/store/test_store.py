"""Artifacts: made once, found again, never a half one and never a changed one."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from full_disks import no_space, small_disk
from sae_nfm.store import store as store_module
from sae_nfm.store.company import ALONE
from sae_nfm.store.store import (
    MANIFEST,
    CorruptedArtifact,
    Store,
    fingerprint,
    write_atomically,
)

SPEC = {"layer": 3, "sae": {"d_sae": 64, "k": 4}}


class Maker:
    """Writes two files, one of them in a folder, and counts its calls."""

    def __init__(self, content="weights"):
        self.content, self.calls = content, 0

    def __call__(self, folder):
        self.calls += 1
        (folder / "weights.bin").write_text(self.content)
        (folder / "logs").mkdir(exist_ok=True)
        (folder / "logs" / "curve.csv").write_text("1,2")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "artifacts")


@pytest.fixture
def make():
    return Maker()


def test_the_same_spec_is_made_once_and_found_again(store, make):
    first = store.fetch("sae", SPEC, make)
    again = Store(store.root).fetch("sae", dict(reversed(SPEC.items())), make)
    assert first == again == store.root / "sae" / fingerprint(SPEC)
    assert make.calls == 1
    assert (first / "weights.bin").read_text() == "weights"


@pytest.mark.parametrize(
    "other",
    [
        {"layer": 4, "sae": {"d_sae": 64, "k": 4}},
        {"layer": 3, "sae": {"d_sae": 64, "k": 5}},
        {"layer": 3, "sae": {"d_sae": 64}},
        {"layer": 3, "sae": {"d_sae": 64, "k": 4}, "seed": 0},
        {"layer": 3, "sae": {"d_sae": 64, "k": 4.5}},
        {"layer": "3", "sae": {"d_sae": 64, "k": 4}},
    ],
)
def test_any_other_spec_is_another_artifact(store, make, other):
    assert store.fetch("sae", SPEC, make) != store.fetch("sae", other, make)
    assert make.calls == 2


def test_another_kind_is_another_artifact(store, make):
    assert store.fetch("sae", SPEC, make) != store.fetch("nfm", SPEC, make)
    assert make.calls == 2


def test_the_manifest_says_what_made_the_artifact_and_what_it_holds(store, make):
    manifest = json.loads((store.fetch("sae", SPEC, make) / MANIFEST).read_text())
    assert manifest["spec"] == SPEC
    assert set(manifest["files"]) == {"weights.bin", "logs/curve.csv"}


def _break_off(folder):
    (folder / "checkpoint").write_text("step 50")
    raise RuntimeError("out of memory")


@pytest.mark.parametrize("together", [False, True])
def test_what_an_exception_leaves_is_not_taken_for_whole(store, make, together):
    with pytest.raises(RuntimeError, match="out of memory"):
        store.fetch("sae", SPEC, _break_off, together=together)
    assert not (store.root / "sae" / fingerprint(SPEC)).exists()
    folder = store.fetch("sae", SPEC, make, together=together)
    assert make.calls == 1
    assert (folder / "weights.bin").read_text() == "weights"


def test_training_goes_on_from_what_an_exception_left_and_nothing_else_does(store, make):
    found = []

    def look(folder):
        found.append((folder / "checkpoint").exists())
        make(folder)

    for kind, together in (("sae", True), ("tokens", False)):
        with pytest.raises(RuntimeError, match="out of memory"):
            store.fetch(kind, SPEC, _break_off, together=together)
        store.fetch(kind, SPEC, look, together=together)
    assert found == [True, False]


def _write_half_and_wait(root, ready):
    def make(folder):
        (folder / "weights.bin").write_text("wei")
        (folder / "checkpoint").write_text("step 50")
        ready.set()
        time.sleep(60)

    Store(root).fetch("sae", SPEC, make)


@pytest.fixture
def processes():
    """Starts processes by fork, so that they need not import anything again, and ends them."""
    context, started = multiprocessing.get_context("fork"), []

    def start(target, *args):
        process = context.Process(target=target, args=args, daemon=True)
        process.start()
        started.append(process)
        return process

    start.context = context
    yield start
    for process in started:
        process.kill()
        process.join()


def test_what_a_killed_process_leaves_is_not_taken_for_whole_and_holds_no_lock(store, make, processes):
    ready = processes.context.Event()
    victim = processes(_write_half_and_wait, store.root, ready)
    assert ready.wait(30)
    os.kill(victim.pid, signal.SIGKILL)
    victim.join(30)
    assert victim.exitcode == -signal.SIGKILL
    assert not (store.root / "sae" / fingerprint(SPEC)).exists()

    folder = store.fetch("sae", SPEC, make)
    assert make.calls == 1
    assert (folder / "weights.bin").read_text() == "weights"
    assert (folder / "checkpoint").read_text() == "step 50"  # its maker could have gone on from it


def _fetch_slowly(root, log, barrier):
    def make(folder):
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.3)
        (folder / "weights.bin").write_text("weights")

    barrier.wait(30)
    found = Store(root).fetch("sae", SPEC, make)
    assert (found / "weights.bin").read_text() == "weights"


def test_processes_that_need_the_same_artifact_make_it_once(store, tmp_path, processes):
    barrier, log = processes.context.Barrier(3), tmp_path / "made_by"
    started = [processes(_fetch_slowly, store.root, log, barrier) for _ in range(3)]
    for process in started:
        process.join(30)
    assert [process.exitcode for process in started] == [0, 0, 0]
    assert len(log.read_text().splitlines()) == 1


def _change(folder):
    (folder / "weights.bin").write_text("weighty")


def _flip_a_byte(folder):
    (folder / "weights.bin").write_text("weightz")


def _delete(folder):
    (folder / "logs" / "curve.csv").unlink()


def _break_manifest(folder):
    (folder / MANIFEST).write_text('{"spec": ')


def _delete_manifest(folder):
    (folder / MANIFEST).unlink()


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_change, "weights.bin"),
        (_flip_a_byte, "weights.bin"),
        (_delete, "curve.csv"),
        (_break_manifest, MANIFEST),
        (_delete_manifest, MANIFEST),
    ],
)
def test_a_damaged_artifact_is_refused_by_the_name_of_the_file(store, make, damage, named):
    folder = store.fetch("sae", SPEC, make)
    damage(folder)
    with pytest.raises(CorruptedArtifact) as error:
        store.fetch("sae", SPEC, make)
    assert named in str(error.value)
    assert f"elete {folder}" in str(error.value)
    assert make.calls == 1


def test_a_file_that_is_added_later_harms_nothing(store, make):
    folder = store.fetch("sae", SPEC, make)
    (folder / "note.txt").write_text("mine")
    assert store.fetch("sae", SPEC, make) == folder


def test_writing_replaces_the_whole_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new" / "result.json"
    write_atomically(path, "first, and long")
    write_atomically(path, "second")
    assert path.read_text() == "second"
    assert [entry.name for entry in path.parent.iterdir()] == ["result.json"]


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "result.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "half of it \ud800")
    assert path.read_text() == "old"


def test_a_file_that_is_being_written_is_not_yet_there(tmp_path, monkeypatch):
    """The name appears in one rename, after everything is written under another one."""
    path, seen = tmp_path / "result.json", []
    rename = type(path).replace

    def watched(partial, target):
        seen.append((path.exists(), partial.read_text()))
        return rename(partial, target)

    monkeypatch.setattr(type(path), "replace", watched)
    write_atomically(path, "content")
    assert seen == [(False, "content")]
    assert path.read_text() == "content"


def test_of_a_large_file_only_the_size_is_looked_at_unless_asked_for(store, make, monkeypatch):
    monkeypatch.setattr("sae_nfm.store.store._SMALL", 3)
    folder = store.fetch("sae", SPEC, make)
    _flip_a_byte(folder)
    assert store.fetch("sae", SPEC, make) == folder
    with pytest.raises(CorruptedArtifact, match=r"weights\.bin"):
        Store(store.root, verify=True).fetch("sae", SPEC, make)
    (folder / "weights.bin").write_text("weights and more")
    with pytest.raises(CorruptedArtifact, match=r"weights\.bin"):
        store.fetch("sae", SPEC, make)


@pytest.mark.parametrize("content", ["[]", "null", '{"files": []}', '{"files": {"a": 1}}', "{", "\x00"])
def test_a_manifest_of_another_shape_is_named(store, make, content):
    folder = store.fetch("sae", SPEC, make)
    (folder / MANIFEST).write_text(content)
    with pytest.raises(CorruptedArtifact, match=f"{MANIFEST} is no manifest of an artifact"):
        store.fetch("sae", SPEC, make)


def test_a_lock_leaves_no_file(store, make):
    store.fetch("sae", SPEC, make)
    with pytest.raises(RuntimeError):
        store.fetch("nfm", SPEC, _break_off, together=True)
    assert not list(store.root.rglob("*.lock"))


def test_what_is_there_is_read_without_a_lock(store, make, monkeypatch):
    folder = store.fetch("sae", SPEC, make)

    def refuse(path):
        raise AssertionError(f"{path} is locked")

    monkeypatch.setattr("sae_nfm.store.store.FileLock", refuse)
    assert Store(store.root).fetch("sae", SPEC, make) == folder


def test_a_store_that_is_read_only_serves_what_it_holds_and_names_what_it_lacks(tmp_path, make):
    with small_disk(tmp_path / "disk", 1000) as remount:
        store = Store(tmp_path / "disk" / "artifacts")
        folder = store.fetch("sae", SPEC, make)
        remount("ro")
        assert store.fetch("sae", SPEC, make) == folder
        for kind in ("sae", "nfm"):  # of a kind that is there, and of one that is not
            with pytest.raises(ValueError, match=r"cannot be made \(.*Read-only file system") as error:
                store.fetch(kind, SPEC | {"seed": 1}, make)
            assert str(store.root / kind) in str(error.value)


def _enter_and_leave(folder):
    for _ in range(200):
        with store_module._lock(folder, ALONE):
            os.close(os.open(folder.with_suffix(".inside"), os.O_CREAT | os.O_EXCL))
            folder.with_suffix(".inside").unlink()


def test_a_lock_whose_file_is_deleted_lets_one_in_at_a_time(tmp_path, processes):
    started = [processes(_enter_and_leave, tmp_path / "artifact") for _ in range(4)]
    for process in started:
        process.join(60)
    assert [process.exitcode for process in started] == [0, 0, 0, 0]
    assert list(tmp_path.iterdir()) == []


def test_what_finds_no_room_is_told_as_a_setting_and_made_when_there_is_room(store, make):
    def full(folder):
        no_space(folder / "weights.bin")

    for together in (False, True):
        with pytest.raises(ValueError, match=r"artifacts=.* cannot be made \(.*No space left on device"):
            store.fetch("sae", SPEC, full, together=together)
    assert (store.fetch("sae", SPEC, make) / "weights.bin").read_text() == "weights"


def test_a_byte_that_changes_without_a_trace_is_found(store, make):
    """As bits flip on a disk: size and time of change stay what they were."""
    path = store.fetch("sae", SPEC, make) / "weights.bin"
    time.sleep(2.1)  # hashes are remembered only of files that have settled
    store.fetch("sae", SPEC, make)
    before, content = path.stat(), bytearray(path.read_bytes())
    content[0] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(CorruptedArtifact, match=r"weights\.bin"):
        store.fetch("sae", SPEC, make)
