"""Interleaved timing, and the table and JSON file that every benchmark leaves in `results/`."""

import argparse
import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "transformer-lens", "lightning", "sae-lens", "eai-sparsify", "dictionary-learning")


def arguments(description: str | None, **integers: int) -> argparse.ArgumentParser:
    """A parser of whole-number options with their defaults, and of the number of threads."""
    parser = argparse.ArgumentParser(description=description)
    for name, default in integers.items():
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=int, default=default, help=f"default {default}")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--device", default="cpu", help="where it is computed")
    parser.add_argument("--name", help="of the files in results/")
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options, the number of threads and the device put into effect."""
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_default_device(getattr(args, "device", "cpu"))
    return args


def interleaved(
    contestants: dict[str, Callable[[], Any]], rounds: int, calls: int = 1, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds a call takes, by contestant and round.

    Every round times every contestant, in an order that turns round by round, so that whatever else the
    machine does in the meantime meets all of them; quotients are to be taken within a round.
    """
    for contestant in contestants.values():
        for _ in range(warm_up):
            contestant()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            started = time.perf_counter()
            for _ in range(calls):
                contestants[name]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append((time.perf_counter() - started) / calls)
    return seconds


def speedup(seconds: dict[str, list[float]], ours: str, theirs: str) -> float:
    """Median over the rounds of how many times faster `ours` is than `theirs`."""
    return statistics.median(b / a for a, b in zip(seconds[ours], seconds[theirs], strict=True))


@dataclass(frozen=True)
class Bar:
    """What a benchmark has to reach."""

    what: str
    measured: float
    bar: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        """Whether it does."""
        return self.measured >= self.bar if self.at_least else self.measured <= self.bar

    def cells(self) -> list[str]:
        """A row of the table of bars."""
        sign = "≥" if self.at_least else "≤"
        return [self.what, number(self.measured), f"{sign} {number(self.bar)}", "yes" if self.met else "NO"]


@dataclass(frozen=True)
class Report:
    """The outcome of one benchmark.

    Args:
        name: of the files in `results/`.
        title: one line.
        columns: of the table; the first is a name.
        rows: as many cells each.
        bars: what had to be reached.
        notes: sentences below the table.
        figures: anything else that belongs into the JSON file.
        sections: further parts of the page.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    bars: Sequence[Bar]
    notes: Sequence[str]
    figures: dict[str, Any]
    sections: Sequence[str] = ()

    def publish(self) -> None:
        """Print the table and write `results/NAME.md` and `results/NAME.json`."""
        environment = describe_machine()
        parts = [f"# {self.title}", markdown(self.columns, self.rows)]
        if self.bars:
            parts.append(markdown(("bar", "measured", "asked", "met"), [bar.cells() for bar in self.bars]))
        parts += [
            *self.notes,
            *self.sections,
            ", ".join(f"{key} {value}" for key, value in environment.items()),
        ]
        page = "\n\n".join(parts) + "\n"
        print(page)
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{self.name}.md").write_text(page, encoding="utf-8")
        content = {
            "title": self.title,
            "rows": [dict(zip(self.columns, row, strict=True)) for row in self.rows],
            "bars": [{**asdict(bar), "met": bar.met} for bar in self.bars],
            "figures": self.figures,
            "notes": list(self.notes),
            "environment": environment,
        }
        (RESULTS / f"{self.name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table whose columns line up as plain text too."""
    cells = [[cell if isinstance(cell, str) else number(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(columns), *cells]) for i in range(len(columns))]
    lines = [list(columns), ["-" * width for width in widths], *cells]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def number(value: float | None) -> str:
    """Three or four digits, thousands grouped."""
    if value is None:
        return "–"
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def describe_machine() -> dict[str, str]:
    """Versions, processor and command; of paths only the last part."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    found["cpu"] = f"{_processor()} ({os.cpu_count()} cores, {torch.get_num_threads()} threads)"
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    command = [f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]
    found["command"] = " ".join(re.sub(r"^([^/]*=)?/.*/", r"\1", part) for part in command)
    return found


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
