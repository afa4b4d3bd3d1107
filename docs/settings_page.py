"""The page of all settings, from the comments of the files under `conf/`."""

import html
import re
from pathlib import Path

_KEY = re.compile(r"^( *)([\w.@/]+): ?(.*?)(?:(?:^|\s+)# (.*))?$")
_HIDDEN = ("_target_", "_partial_", "defaults")
_INTRODUCTION = """# Settings

Every file under `conf/`, in the words of its own comments: this page is made of them when the site is built.
`group=name` on the command line chooses a file, and `group.setting=value` changes one of its settings. Where
two speak of the same setting, the later wins: group < experiment < ablation < command line."""


def settings_page(conf: Path) -> str:
    """What every file of `conf` is for, and what its settings are, from their comments."""
    groups: dict[str, list[Path]] = {}
    for path in sorted(conf.rglob("*.yaml")):
        groups.setdefault(path.parent.relative_to(conf).as_posix(), []).append(path)
    parts = [_INTRODUCTION, _section("study.yaml", "##", conf / "study.yaml")]
    for group, paths in groups.items():
        if group != ".":
            parts += [f"## {group}", *(_section(f"{group}={path.stem}", "###", path) for path in paths)]
    return "\n\n".join(parts) + "\n"


def _section(title: str, level: str, path: Path) -> str:
    rows = [f"| {_code(key)} | {_code(value)} | {note} |" for key, value, note in settings(path.read_text())]
    table = ["| setting | value | |", "| --- | --- | --- |", *rows] if rows else []
    return "\n\n".join(
        filter(None, [f"{level} {title}", _escaped(purpose(path.read_text())), "\n".join(table)])
    )


def purpose(text: str) -> str:
    """What a file's first comment says, without the line that places it."""
    lines = [line for line in text.splitlines() if not line.startswith("# @package")]
    said = []
    for line in lines:
        if not line.startswith("#"):
            break
        said.append(line.lstrip("# ").strip())
    return " ".join(said)


def settings(text: str) -> list[tuple[str, str, str]]:
    """Name, value and comment of every setting in a file, nested names joined by dots.

    A comment on a line of its own, between settings, has neither name nor value.
    """
    found, above = [], []
    for line in text.splitlines():
        if line.startswith("# ") and found:
            found.append(("", "", f"**{_escaped(line[2:])}**"))
        match = _KEY.match(line)
        if match is None:
            continue
        indent, key, value, note = len(match[1]), match[2], match[3], match[4] or ""
        above = [(i, name) for i, name in above if i < indent]
        name = ".".join([*(name for _, name in above), key])
        above.append((indent, key))
        if above[0][1] not in _HIDDEN and key not in _HIDDEN and (value or note):
            found.append((name, value, _escaped(note)))
    return found


def _code(value: str) -> str:
    shown = re.sub(r"_target_: [\w.]+\.(\w+)", r"\1", value)
    return f"`{shown}`" if shown else ""


def _escaped(text: str) -> str:
    """Markdown that shows a comment as it is."""
    pieces = text.split("`")
    plain = [re.sub(r"([\\|*_\[\]])", r"\\\1", html.escape(piece)) for piece in pieces[::2]]
    mixed = [
        piece
        for pair in zip(plain, [*pieces[1::2], None], strict=True)
        for piece in pair
        if piece is not None
    ]
    return "`".join(mixed)
