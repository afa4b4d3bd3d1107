"""What `plan=true` says that a study takes, against what the study then takes.

    python benchmarks/plan.py [--settings NAME …]

Memory is the most that the study's process takes, disk is what it adds to a store that has tokens alone.
"""

import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import psutil
from timing import Bar, Report, arguments, parsed

SETTINGS = {
    "quickstart": ["train_tokens=262144", "eval_tokens=8192"],
    "cached": ["activations=cached", "sae.d_sae=4096", "train_tokens=300000", "eval_tokens=8192"],
    "wide": ["sae.d_sae=32768", "nfm=none", "train_tokens=131072", "eval_tokens=4096"],
    "kl": [
        "nfm_objective=kl", "tuning_tokens=65536", "train_tokens=131072", "sae.d_sae=4096", "eval_tokens=4096"
    ],
    "attributed": [
        *("attribution=pairs", "attribution.further_seeds=0", "attribution.tokens=2048"),
        *("sae.d_sae=4096", "train_tokens=65536", "linear_tokens=65536", "eval_tokens=4096"),
    ],
}  # fmt: skip
LOOK_EVERY = 0.1  # seconds
COMMAND = [sys.executable, "-m", "sae_nfm", "experiment=quickstart", "trainer=cpu", "logger=none"]


class Taken(NamedTuple):
    """What a study takes."""

    memory: int
    """Bytes."""
    disk: int
    """Bytes."""
    seconds: float


def planned(overrides: list[str], folder: Path) -> Taken:
    """What the plan says; it is written into a folder of its own."""
    subprocess.run(
        [*overrides, "plan=true", f"hydra.run.dir={folder}"], check=True, stdout=subprocess.DEVNULL
    )
    plan = json.loads(Path(folder, "plan.json").read_text(encoding="utf-8"))
    seconds = sum(each["seconds"] for each in plan["artifacts"].values()) + plan["evaluation"]["seconds"]
    return Taken(plan["memory"], sum(plan["disk"].values()), seconds)


def taken(overrides: list[str], folder: Path, store: Path) -> Taken:
    """What the study takes."""
    before, started, most = size(store), time.perf_counter(), 0
    with subprocess.Popen([*overrides, f"hydra.run.dir={folder}"], stdout=subprocess.DEVNULL) as study:
        while study.poll() is None:
            most = max(most, resident(study.pid, store))
            time.sleep(LOOK_EVERY)
    if study.returncode:
        raise subprocess.CalledProcessError(study.returncode, study.args)
    return Taken(most, size(store) - before, time.perf_counter() - started)


def resident(process: int, store: Path) -> int:
    """Bytes of a process, without pages of the store's files, which the system may take back at any time."""
    with suppress(psutil.NoSuchProcess):
        maps = psutil.Process(process).memory_maps()
        return sum(each.rss for each in maps if not each.path.startswith(str(store)))
    return 0


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def compared(name: str, tokens: Path) -> tuple[Taken, Taken]:
    """The plan of a setting, and what became of it; tokens are kept for the next one."""
    with TemporaryDirectory() as folder:
        store = Path(folder, "store")
        store.mkdir()
        (store / "tokens").symlink_to(tokens)
        overrides = [*COMMAND, *SETTINGS[name], f"artifacts={store}"]
        return planned(overrides, Path(folder, "plan")), taken(overrides, Path(folder, "study"), store)


def bars(name: str, plan: Taken, found: Taken) -> list[Bar]:
    """How far the plan may be off."""
    return [
        Bar(f"{name}: {what}, share that it is off by", abs(said / was - 1), at_most, at_least=False)
        for what, said, was, at_most in (
            ("memory", plan.memory, found.memory, 0.2),
            ("disk", plan.disk, found.disk, 0.05),
        )
    ]


def main() -> None:
    """Plan and run every setting, and write the table."""
    parser = arguments(__doc__)
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    args = parsed(parser)
    found = {}
    with TemporaryDirectory() as tokens:
        for name in args.settings:
            found[name] = compared(name, Path(tokens))
            print(name, *found[name], flush=True)
    Report(
        name=args.name or "plan",
        title="What plan=true says, and what the study takes",
        columns=(
            "experiment=quickstart …",
            "GB",
            "GB said",
            "MB on disk",
            "MB said",
            "seconds",
            "seconds said",
        ),
        rows=[
            [
                " ".join(SETTINGS[name]),
                *(value for pair in zip(_units(was), _units(said), strict=True) for value in pair),
            ]
            for name, (said, was) in found.items()
        ],
        bars=[bar for name, pair in found.items() for bar in bars(name, *pair)],
        notes=[
            "Memory: the most of the study's process, looked at ten times a second, without mapped pages of "
            "its store. Disk: what it adds to its store, tokens apart, which the plan makes. Seconds are "
            "said of training and evaluation, without the start and the report."
        ],
        figures={
            name: {"said": said._asdict(), "taken": was._asdict()} for name, (said, was) in found.items()
        },
    ).publish()


def _units(taken: Taken) -> tuple[float, float, float]:
    return taken.memory / 1e9, taken.disk / 1e6, taken.seconds


if __name__ == "__main__":
    main()
