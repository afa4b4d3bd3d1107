"""Which settings differ between studies, each named by the shortest key that says so."""

import json
import re
from collections.abc import Sequence
from typing import Any

from sae_nfm.compare.studies import ComparedStudy

# Where a study was written and who logged it: differs between any two studies and means nothing.
_NOISE = re.compile(
    r"^(hydra|logger|name|sweep)([./]|$)|(^|[._])(dir|dirpath|folder|root|cwd|artifacts|store)$"
)
_WHOLE = ("experiment", "ablation", "sae")  # options that change settings all over the config
_ALSO_CALLED = {"sae.k": "l0"}  # copies, by interpolation, that have another name
_COINCIDENCE = 3  # two settings with this many equal values are one, interpolated


def varied_settings(studies: Sequence[ComparedStudy]) -> list[str]:
    """Find the settings that take more than one value, config groups first.

    A setting that follows from another is left out: what a varied group's option sets below the group's
    own name, what an ablation or an experiment sets anywhere, and copies made by interpolation.
    """
    choices = list(dict.fromkeys(key for study in studies for key in study.choices))
    settings = list(dict.fromkeys(key for study in studies for key in study.settings))
    choices.sort(key=lambda key: _WHOLE.index(key) if key in _WHOLE else len(_WHOLE))
    settings.sort(key=lambda key: key.count("."))
    kept: dict[str, tuple] = {}
    for key in dict.fromkeys((*choices, *settings)):
        column = tuple(_comparable(study, key) for study in studies)
        if len(set(column)) > 1 and not _NOISE.search(key) and not _follows(key, column, kept, set(choices)):
            kept[key] = column
    return list(kept)


def numeric(values: Sequence[Any]) -> bool:
    """Whether all values are numbers."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def distinct(studies: Sequence[ComparedStudy], key: str) -> list[Any]:
    """The values that a setting takes, numbers in order of size, others by name; no value is as null."""
    values = {text(study.setting(key)): study.setting(key) for study in studies}
    return sorted(values.values(), key=sort_key)


def sort_key(value: Any) -> tuple:
    """Orders values of different types: numbers, then text, then absence."""
    if numeric([value]):
        return (0, value, "")
    return (2, 0, "") if value is None else (1, 0, text(value))


def text(value: Any) -> str:
    """A setting's value as on the command line."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else _written(value)


def short(key: str) -> str:
    """The last part of a setting's key."""
    return key.rpartition(".")[2]


def named(study: ComparedStudy, varied: Sequence[str]) -> str:
    """A study by what tells it from the others: `d_sae=256, l0=8`."""
    seed_last = sorted(varied, key=lambda key: key == "seed")
    return ", ".join(f"{short(key)}={text(study.setting(key))}" for key in seed_last)


def _comparable(study: ComparedStudy, key: str) -> str:
    present = key in study.choices or key in study.settings
    return _written(study.setting(key)) if present else ""


def _written(value: Any) -> str:
    """As JSON, and the same whether a whole number is held as a float or not."""
    whole = isinstance(value, float) and value.is_integer()
    return json.dumps(int(value) if whole else value, sort_keys=True)


def _follows(key: str, column: tuple, kept: dict[str, tuple], choices: set[str]) -> bool:
    """Whether the values of `key` are determined by those of a key that is kept already."""
    if key in choices:
        return any(_determines(kept[whole], column) for whole in _WHOLE if whole in kept)
    group, _, name = key.rpartition(".")
    structural = "" in column or name == "_target_" or any(value.startswith("[") for value in column)
    for other, values in kept.items():
        is_named_so = f"_{_ALSO_CALLED.get(key, name)}".endswith(f"_{other.rpartition('.')[2]}")
        is_copy = is_named_so or (group and len(set(column)) >= _COINCIDENCE)
        if is_copy and all(mine in ("", theirs) for mine, theirs in zip(column, values, strict=True)):
            return True
        owns = other in choices and (other in _WHOLE or other.rpartition("@")[2] == key.partition(".")[0])
        if group and (owns or structural) and _determines(values, column):
            return True
    return False


def _determines(values: tuple, column: tuple) -> bool:
    return len(set(zip(values, column, strict=True))) == len(set(values))
