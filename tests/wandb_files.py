"""Reads what W&B wrote on disk: a `.wandb` file is a log of protocol buffers in LevelDB's format."""

import json
import struct
from pathlib import Path

import wandb
from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER = 1 << 15, 7  # bytes; both of the file and of a chunk
FULL, LAST = 1, 4


def records(path):
    """The records of a `.wandb` file in order."""
    data, at, parts = path.read_bytes(), HEADER, b""
    assert data[:4] == b":W&B"
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:  # too short for a chunk: zeros
            at += BLOCK - at % BLOCK
            continue
        _checksum, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        parts += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


class OfflineRun:
    """What one offline run holds."""

    def __init__(self, folder):
        (file,) = folder.glob("*.wandb")
        self.folder, self.config, self.summary, self.history = folder, {}, {}, []
        self.artifacts, self.exit_code, self.run = [], None, None
        for record in records(file):
            getattr(self, f"_{record.WhichOneof('record_type')}", lambda part: None)(
                getattr(record, record.WhichOneof("record_type"))
            )
        self.id, self.name, self.group = self.run.run_id, self.run.display_name, self.run.run_group
        self.job_type, self.tags, self.project = self.run.job_type, list(self.run.tags), self.run.project

    def table(self, key):
        """The columns and rows of a table."""
        shown = json.loads((self.folder / "files" / self.summary[f"{key}.path"]).read_text())
        return shown["columns"], shown["data"]

    def _run(self, part):
        self.run = part
        self._config(part.config)

    def _config(self, part):
        self.config |= values(part.update)

    def _summary(self, part):
        self.summary |= values(part.update)

    def _history(self, part):
        self.history.append(values(part.item))
        self.summary |= self.history[-1]  # as the server does where no summary is set

    def _artifact(self, part):
        self.artifacts.append((part.type, part.name))

    def _exit(self, part):
        self.exit_code = part.exit_code


def values(items):
    """Keys and values; a key is in `key`, or in parts in `nested_key`."""
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def offline_runs(folder):
    """The runs below a run folder, by job type, in the order in which they began."""
    wandb.teardown()  # waits until all is written
    found = {}
    runs = [OfflineRun(path) for path in Path(folder).glob("wandb/offline-run-*")]
    for run in sorted(runs, key=lambda run: run.run.start_time.ToNanoseconds()):
        found.setdefault(run.job_type, []).append(run)
    return found
