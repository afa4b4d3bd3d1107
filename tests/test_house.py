"""The layout of docs/architecture.md: rooms import downwards, and nothing is too long to be read."""

import ast
from pathlib import Path

import pytest

import sae_nfm

HOUSE = Path(sae_nfm.__file__).parent
ROOMS = (
    *("settings", "progress", "store", "lm", "data", "models", "interop", "measures", "training"),
    *("baselines", "recipes", "evaluation", "attribution", "findings", "stages", "planning", "config"),
    *("launch", "export", "attribute", "api", "__main__"),
)
"""Every room imports from itself and from those before it."""
SHOWING = ("report", "compare", "tracking")
"""They read `result.json`, and import each other and what all rooms share."""
LONGEST_CLASS, LONGEST_STUDY = 120, 80


def files():
    return [path for path in HOUSE.rglob("*.py") if "assets" not in path.parts]


def room(path):
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def imported(path):
    """The rooms that a file imports from, where it is imported itself."""
    for node in ast.parse(path.read_text()).body:
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if names == ["sae_nfm"]:
            names = [f"sae_nfm.{alias.name}" for alias in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("sae_nfm."))


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(HOUSE)))
def test_imports_run_downwards(path):
    here = room(path)
    if here in SHOWING:
        allowed = {"settings", "store", *SHOWING}
    elif here == "__init__":
        allowed = {"api"}
    else:
        allowed = {*ROOMS[: ROOMS.index(here) + 1]}
        allowed |= set(SHOWING) if ROOMS.index(here) >= ROOMS.index("config") else set()
    assert set(imported(path)) <= allowed


def test_every_room_is_in_the_order():
    assert {room(path) for path in files()} - {"__init__"} <= {*ROOMS, *SHOWING}


def test_no_class_is_longer_than_a_page_or_two():
    too_long = {
        f"{path.name}: {node.name}": length
        for path in files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > LONGEST_CLASS
    }
    assert too_long == {}


def test_the_study_reads_like_a_table_of_contents():
    assert len((HOUSE / "launch" / "study.py").read_text().splitlines()) <= LONGEST_STUDY
