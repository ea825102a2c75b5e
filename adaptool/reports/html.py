"""One offline HTML file: the page's frame, tables, and markup in which text is escaped by construction.

A string is text and is escaped; only ``tag`` makes ``Markup``, so that no name from a file becomes HTML. The page asks
nobody for anything: style and script are inside it, and its content security policy allows no other. It reads without
the script, which only sorts tables and shows at once what a cell's title says later. Charts: ``heat_map``,
``line_chart``.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from adaptool.reports.layout import visible

VOID = {"br", "meta", "wbr"}


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = str | None | Iterable["Child"]
"""Text (escaped), Markup (as it is), nothing, or several of them."""


def escaped(text: str) -> Markup:
    """``text`` as HTML shows it: no markup, and what would reorder or hide other text spelt out."""
    return text if isinstance(text, Markup) else Markup(html.escape(visible(text)))


def tag(name: str, /, *children: Child, **attributes: str | int | float | bool | None) -> Markup:
    """An element, ``tag("td", "12 %", class_="number", data_value=0.12)``; None and False leave an attribute out."""
    opened = f"<{name}{''.join(_attribute(key, value) for key, value in attributes.items())}>"
    return Markup(opened if name in VOID else f"{opened}{''.join(_flat(children))}</{name}>")


def _attribute(key: str, value: str | int | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(visible(str(value)))}"'


def _flat(children: Iterable[Child]) -> Iterable[str]:
    for child in children:
        if isinstance(child, str):
            yield escaped(child)
        elif child is not None:
            yield from _flat(child)


def page(title: str, *body: Child) -> str:
    """A whole document in one file that loads nothing."""
    style, script = _asset("page.css"), _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        tag("style", Markup(style)),
    )
    main = tag("body", tag("main", body), tag("script", Markup(script)))
    return f"<!doctype html>\n{tag('html', head, main, lang='en')}\n"


@cache
def _asset(name: str) -> str:
    return files("adaptool.reports").joinpath(name).read_text("utf-8")


def section(title: str, *body: Child, note: str = "") -> Markup:
    """A part of the page under its heading."""
    return tag("section", tag("h2", title), tag("p", note, class_="note") if note else None, body)


def dotted(name: str) -> Markup:
    """A dotted name as code, which a narrow column breaks after a dot."""
    parts = re.split(r"(?<=\.)", name)
    return tag("code", (child for i, part in enumerate(parts) for child in ((tag("wbr"), part) if i else (part,))))


def pill(text: str, style: str = "") -> Markup:
    """A word in a coloured capsule; ``style`` is good, warn or bad."""
    return tag("span", text, class_=f"pill {style}".strip())


def tiles(facts: Iterable[tuple[str, Child, str]]) -> Markup:
    """The figures that matter, large: (what it is, the figure, a word about it) each."""
    return tag(
        "dl",
        (
            tag("div", tag("dt", name), tag("dd", value), tag("dd", about, class_="note") if about else None)
            for name, value, about in facts
        ),
        class_="tiles",
    )


def facts(pairs: Iterable[tuple[str, Child]]) -> Markup:
    """Names and values, one pair a line."""
    return tag("dl", ([tag("dt", name), tag("dd", value)] for name, value in pairs), class_="facts")


def card(title: str, *body: Child) -> Markup:
    """A box under its own title; several stand side by side in a ``div`` of class ``cards``."""
    return tag("div", tag("h3", title), body, class_="card")


@dataclass(frozen=True, slots=True)
class Heading:
    """A column's head; ``number`` aligns its cells to the right, ``note`` explains it."""

    title: str
    number: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell that sorts by something else than its text, or has more to say than it shows."""

    content: Child
    value: float | None = None
    title: str | None = None


Row = Sequence[Cell | str]


def table(headings: Sequence[Heading], rows: Iterable[Row], *, caption: str, sort: bool = True) -> Markup:
    """A table whose first column names the row; it scrolls in itself where the page is too narrow for it."""
    head = tag(
        "thead",
        tag(
            "tr",
            (
                tag("th", one.title, scope="col", class_="number" if one.number else None, title=one.note or None)
                for one in headings
            ),
        ),
    )
    body = tag("tbody", (tag("tr", map(_cell, row, headings, range(len(headings)))) for row in rows))
    return scrolling(
        tag("table", tag("caption", caption, class_="hidden"), head, body, class_="sortable" if sort else None), caption
    )


def _cell(cell: Cell | str, heading: Heading, column: int) -> Markup:
    content, value, title = (cell.content, cell.value, cell.title) if isinstance(cell, Cell) else (cell, None, None)
    return tag(
        "td" if column else "th", content, scope=None if column else "row",
        class_="number" if heading.number else None, data_value=None if value is None else f"{value:.6g}", title=title,
    )  # fmt: skip


def scrolling(content: Markup, label: str) -> Markup:
    """``content`` in a box that scrolls sideways, which a keyboard reaches."""
    return tag("div", content, class_="scroll", tabindex=0, role="region", aria_label=label)
