"""Finding studies below folders, finished or not, and reading the finished ones."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sae_nfm.compare.about import About, read_about
from sae_nfm.compare.documents import NAME, DocumentSums, read_documents
from sae_nfm.compare.measures import MEASURES, Measure
from sae_nfm.compare.steps import Steps, read_steps
from sae_nfm.report.estimates import Estimate, lookup, number, sae_family
from sae_nfm.report.page import flatten

SCHEMA = 1  # of the results that this version reads
RECORD = "job.json"  # what became of a sweep's job
_BEGUN = {"config.yaml", RECORD}


class ComparedStudy(NamedTuple):
    """What a comparison keeps of one study."""

    folder: Path
    about: About
    settings: dict[str, Any]  # flat, keys as on the command line
    choices: dict[str, str]  # config group → the option taken
    family: str | None  # of the SAE
    k: float | None  # of a family that has one
    values: dict[str, Estimate | None]  # by the name of the measure
    steps: Steps  # from the SAE to the NFM
    documents: DocumentSums | None  # where the study kept them
    warnings: list[str]

    def setting(self, key: str) -> Any:
        """The option taken for a config group, or the value of a setting; None if it has neither."""
        return self.choices.get(key, self.settings.get(key))

    @property
    def sae(self) -> str:
        """The SAE's family, with k where it has one."""
        return (self.family or "–") + ("" if self.k is None else f", k {self.k:g}")


class Problem(NamedTuple):
    """A study that cannot be compared, and why."""

    folder: Path
    reason: str


def telling(studies: Sequence[ComparedStudy], measures: Iterable[Measure]) -> list[Measure]:
    """The measures that any of the studies has, and that tell them apart where there are several."""
    values = {m: {study.values[m.name] for study in studies} for m in measures}
    return [m for m, of in values.items() if of != {None} and (len(of) > 1 or len(studies) == 1)]


def read_studies(folders: Iterable[Path]) -> tuple[list[ComparedStudy], list[Problem]]:
    """Read every `result.json` below the folders, each once.

    Returns:
        The studies, and the jobs whose result is missing or cannot be read.
    """
    studies, problems = [], []
    for folder in dict.fromkeys(job.resolve() for top in folders for job in _jobs(top)):
        try:
            studies.append(_read(folder))
        except FileNotFoundError:
            problems.append(Problem(folder, f"no result.json: {_why(folder)}"))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            problems.append(Problem(folder, f"broken result.json: {error}"))
    return studies, problems


def _jobs(top: Path) -> Iterator[Path]:
    """Folders that hold a study, or in which one was begun, in the order of their names."""
    for folder, below, files in os.walk(top):
        begun = ".hydra" in below or not _BEGUN.isdisjoint(files)
        below[:] = sorted(name for name in below if not name.startswith(".") and name != "wandb")
        if "result.json" in files or begun:
            yield Path(folder)


def _why(folder: Path) -> str:
    """What became of a study that left no result: a sweep tells it of its jobs."""
    try:
        job = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return f"{job['state']} ({job['reason']})" if job["reason"] else job["state"]
    except (OSError, ValueError, TypeError, KeyError):
        return "not finished, or failed"


def _read(folder: Path) -> ComparedStudy:
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    if not isinstance(result, dict) or result.get("schema") != SCHEMA:
        raise ValueError(f"not a result of schema {SCHEMA}")
    for part in ("conditions", "settings", "choices"):
        if not isinstance(result.get(part), dict):
            raise ValueError(f"its {part} are missing or not a mapping")
    return compared(folder, result)


def compared(folder: Path, result: Mapping[str, Any]) -> ComparedStudy:
    """What a comparison keeps of a result, and of what lies beside it in its folder."""
    warnings = [str(warning) for warning in result.get("warnings") or []]
    try:
        documents = read_documents(folder, result)
    except (OSError, ValueError, KeyError) as error:
        documents = None
        warnings.append(f"{NAME} is left aside: {error}")
    return ComparedStudy(
        folder=folder,
        about=read_about(result),
        settings=flatten(result["settings"]),
        choices=result["choices"],
        family=sae_family(result),
        k=number(lookup(result, "sae", "k")),
        values={measure.name: measure.read(result) for measure in MEASURES},
        steps=read_steps(result),
        documents=documents,
        warnings=warnings,
    )
