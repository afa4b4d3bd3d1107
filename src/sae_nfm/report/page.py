"""HTML by construction: text is escaped unless it is markup that came from here."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from sae_nfm.report.estimates import Estimate, format_parts


class Html(str):
    """Markup. Any other string is text, and is escaped when it becomes part of a page."""


_VOID = ("img", "meta")


def tag(element: str, /, *children: str, **attributes: str) -> Html:
    """An element: `class_` is the attribute `class`, `data_x` is `data-x`; text children are escaped."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"' for key, value in attributes.items()
    )
    return Html(f"<{element}{written}>" + ("" if element in _VOID else f"{join(children)}</{element}>"))


def join(children: Iterable[str]) -> Html:
    """Elements and texts one after the other."""
    return Html("".join(child if isinstance(child, Html) else html.escape(child) for child in children))


def number_cell(shown: Estimate | None, minimum: int = 3, unit: str = "", **attributes: str) -> Html:
    """A table cell with a value and its interval below it."""
    text, interval = format_parts(shown, minimum, unit)
    below = tag("span", interval, class_="interval") if interval else Html()
    return tag("td", text, below, class_="number", **attributes)


def table(headings: Iterable[str | Html], rows: Iterable[Html], **attributes: str) -> Html:
    """A table in a box of its own that scrolls sideways when the page is narrow."""
    cells = [cell if isinstance(cell, Html) else tag("th", cell) for cell in headings]
    head = tag("thead", tag("tr", *cells))
    return tag("div", tag("table", head, tag("tbody", *rows), **attributes), class_="scroll")


def number_headings(*texts: str) -> list[Html]:
    """Headings of columns of numbers."""
    return [tag("th", text, class_="number") for text in texts]


def stacked(headings: Sequence[str], rows: Iterable[tuple[str, Html, Sequence[Html | None]]]) -> Html:
    """A table whose rows become blocks on a narrow page, every value beside its heading.

    Args:
        headings: of the first column and of those of numbers.
        rows: each with its class, the content of its first cell, and its values; None is an empty cell.
    """
    first, *others = headings
    written = [
        tag(
            "tr",
            tag("td", name, class_="name"),
            *(
                tag("td", value or Html(), class_="number", data_label=heading)
                for heading, value in zip(others, values, strict=True)
            ),
            class_=kind,
        )
        for kind, name, values in rows
    ]
    return table([first, *number_headings(*others)], written, class_="stacks")


def amount(text: str, below: str = "") -> Html:
    """What stands in a cell of numbers: a value and, smaller, what belongs to it."""
    return tag("span", text, tag("span", below, class_="interval") if below else Html())


_PICTURES = {".png": "image/png", ".svg": "image/svg+xml"}


def figure(picture: Path, alt: str, caption: str) -> Html:
    """A PNG or an SVG inlined in the page, with its caption, in a box that scrolls on a narrow page."""
    return tag("figure", tag("div", _image(picture, alt), class_="scroll"), tag("figcaption", caption))


def drawing(svg: Path, alt: str, caption: str) -> Html:
    """The same of an SVG that is narrow enough for every page."""
    return tag("figure", _image(svg, alt, class_="drawing"), tag("figcaption", caption))


def _image(picture: Path, alt: str, **attributes: str) -> Html:
    data = base64.b64encode(picture.read_bytes()).decode()
    return tag("img", src=f"data:{_PICTURES[picture.suffix]};base64,{data}", alt=alt, **attributes)


def key_values(values: Mapping[str, Any]) -> Html:
    """A table of two columns: keys, and values as text."""
    rows = (tag("tr", tag("td", tag("code", key)), tag("td", str(value))) for key, value in values.items())
    return table(("key", "value"), rows, class_="settings")


def details(summary: str, *children: str) -> Html:
    """A part of the page that opens on a click."""
    return tag("details", tag("summary", summary), *children)


def flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def page(title: str, *body: Html) -> str:
    """A whole document that needs nothing but itself."""
    style = Html(resources.files("sae_nfm.report").joinpath("style.css").read_text(encoding="utf-8"))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", style),
    )
    return "<!doctype html>\n" + tag("html", head, tag("body", *body), lang="en") + "\n"
