"""The README's Python runs as it is printed."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def python_blocks(text):
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run(text):
    """Run the blocks one after the other, as in one session."""
    session = {"__name__": "__main__"}
    for block in python_blocks(text):
        exec(compile(block, README.name, "exec"), session)
    return session


def test_its_python_runs_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(README.read_text())
