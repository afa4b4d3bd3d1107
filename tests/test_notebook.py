"""The notebook runs as it is, and the outputs that it is kept with are of such a run."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

PATH = Path(__file__).parents[1] / "notebooks" / "first_study.ipynb"
A_MACHINES_PATH = re.compile(r"(?<![\w.:/])/(home|Users|root|tmp|work|opt|usr|var|mnt)/|site-packages")


@pytest.fixture
def notebook():
    return nbformat.read(PATH, as_version=4)


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell):
    """What a cell shows: printed text, tables, images."""
    return {(output.output_type, *sorted(output.get("data", {}))) for output in cell.outputs}


def test_it_runs_and_shows_what_it_is_kept_with(notebook, tmp_path):
    kept = [kinds(cell) for cell in code_of(notebook)]
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert [kinds(cell) for cell in code_of(notebook)] == kept
    assert sum("image/png" in shown for cell in kept for shown in cell) == 2
    assert (tmp_path / "runs" / "first_study" / "result.json").is_file()


def test_it_was_run_from_top_to_bottom_and_names_no_machine(notebook):
    cells = code_of(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert A_MACHINES_PATH.search(PATH.read_text()) is None
