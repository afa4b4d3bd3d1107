"""What the site is given when it is built: the page of settings, and formulas that browsers draw."""

import html
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from settings_page import settings_page

_CONF = Path(__file__).parents[1] / "conf"
_FORMULA = re.compile(r'<(span|div) class="arithmatex">(\\\(|\\\[)(.*?)(?:\\\)|\\\])</\1>', re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add `settings.md`, which no one writes."""
    files.append(File.generated(config, "settings.md", content=settings_page(_CONF)))
    return files


def on_page_content(content: str, **_: object) -> str:
    """Turn every formula into MathML, so that no script is fetched to draw it."""
    return _FORMULA.sub(_as_mathml, content)


def _as_mathml(found: re.Match[str]) -> str:
    formula = convert(html.unescape(found[3]), display="inline" if found[1] == "span" else "block")
    return formula.replace("\\_", "_")  # as names in \text have it
