"""What the documentation says that can be run: its commands, its Python, its files."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
_BLOCK = re.compile(r"^(?: *)```(\w+)([^\n]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_TITLE = re.compile(r'title="([^"]+)"')
_INLINE = re.compile(r"(?<!`)`(python -m sae_nfm[^`]+)`")


def name(page):
    return page.relative_to(ROOT).as_posix()


def blocks(text, language):
    """Title, or None, and content of every fenced block of a language."""
    found = [(_TITLE.search(about), body) for kind, about, body in _BLOCK.findall(text) if kind == language]
    return [(title and title[1], body) for title, body in found]


def commands(text):
    """Every shell command of a page, in words: of its blocks, and `python -m sae_nfm …` in its lines."""
    lines = [line for _, block in blocks(text, "bash") for line in block.replace("\\\n", " ").splitlines()]
    inline = [" ".join(found.split()) for found in _INLINE.findall(_BLOCK.sub("", text))]
    words = [shlex.split(line, comments=True) for line in [*lines, *inline]]
    return [command for command in words if command]


def write_files(text, folder):
    """Write the blocks that have a file's name for title, as a reader would."""
    for language in ("python", "yaml"):
        for title, body in blocks(text, language):
            if title:
                (folder / title).parent.mkdir(parents=True, exist_ok=True)
                (folder / title).write_text(body)
