"""Text in columns: facts with hanging indents, tables that fit a width, and colours that are only marks until shown.

A report is a list of lines, a line a tuple of spans. Whoever prints it decides whether styles become colours, so the
same report serves a terminal, a pipe and a test.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Style = Literal["", "title", "heading", "label", "dim", "good", "warn", "bad", "spark"]

ANSI = {"title": "1", "heading": "1;36", "label": "2", "dim": "2", "good": "32", "warn": "33", "bad": "1;31",
        "spark": "36"}  # fmt: skip

LABEL = 16
"""Columns before a fact's value: with them a SHA-256 just fits 80."""
INDENT = "  "
ELASTIC_MINIMUM = 12


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of text in one style."""

    text: str
    style: Style = ""


Line = tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """A table's column. ``keep`` is how dear it is: where the width is short, the cheapest go first."""

    title: str
    right: bool = False
    elastic: bool = False
    """The column that gives way: its texts are elided in the middle."""
    keep: int = 9
    style: Style = ""


def plain(lines: Iterable[Line]) -> str:
    """The lines as text without styles."""
    return "\n".join("".join(span.text for span in line).rstrip() for line in lines)


def coloured(lines: Iterable[Line]) -> str:
    """The lines with their styles as ANSI colours."""
    return "\n".join("".join(map(_painted, line)).rstrip() for line in lines)


def _painted(span: Span) -> str:
    return f"\x1b[{ANSI[span.style]}m{span.text}\x1b[0m" if span.style and span.text.strip() else span.text


def visible(text: str) -> str:
    """``text`` with all escaped that would not show as itself: control characters, line breaks, direction marks."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def cells(text: str) -> int:
    """Columns a terminal gives ``text``: two for wide characters, none for combining ones."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def elided(text: str, width: int) -> str:
    """``text`` in at most ``width`` columns, its middle replaced by … where it is longer."""
    if cells(text) <= width:
        return text
    head, tail = text[: (width - 1) // 2], text[len(text) - width // 2 :]
    while cells(head) + 1 + cells(tail) > width:
        head, tail = (head[:-1], tail) if cells(head) >= cells(tail) else (head, tail[1:])
    return f"{head}…{tail}"


def fact(label: str, value: str, width: int, style: Style = "") -> list[Line]:
    """``label   value``, the value wrapped under itself."""
    wrapped = wrap(value, width - LABEL) or [""]
    first = Span(f"{INDENT}{label}".ljust(LABEL), "label")
    return [(first if i == 0 else Span(" " * LABEL), Span(text, style)) for i, text in enumerate(wrapped)]


def wrap(text: str, width: int) -> list[str]:
    """``text`` escaped and cut into lines at spaces, and inside a word only where it is longer than a line."""
    return textwrap.wrap(visible(text), max(20, width), break_on_hyphens=False)


def table(columns: Sequence[Column], rows: Sequence[Sequence[str] | Line], width: int) -> list[Line]:
    """A table in at most ``width`` columns where that is possible; a row that is a Line already stands as it is."""
    shown = _fitting(columns, rows, width)
    widths = _widths(shown, columns, rows)
    spare = width - len(INDENT) - sum(widths[i] + 2 for i in shown) + 2
    for i in shown:
        if columns[i].elastic and spare < 0:
            widths[i] = max(ELASTIC_MINIMUM, widths[i] + spare)
    head = tuple(Span(_aligned(columns[i].title, widths[i], columns[i].right) + "  ", "heading") for i in shown)
    lines: list[Line] = [(Span(INDENT), *head)]
    for row in rows:
        if isinstance(row[0] if row else "", Span):
            lines.append(tuple(row))  # type: ignore[arg-type]
            continue
        body = (
            Span(_aligned(visible(str(row[i])), widths[i], columns[i].right) + "  ", columns[i].style) for i in shown
        )
        lines.append((Span(INDENT), *body))
    return lines


def _fitting(columns: Sequence[Column], rows: Sequence[Sequence[str] | Line], width: int) -> list[int]:
    """The columns that fit, the cheapest dropped first; those that are empty in every row are dropped anyway."""
    shown = [i for i in range(len(columns)) if any(row[i] for row in rows if isinstance(row[0], str))]
    while len(shown) > 1:
        widths = _widths(shown, columns, rows)
        need = sum(min(widths[i], ELASTIC_MINIMUM + 8) if columns[i].elastic else widths[i] for i in shown)
        if need + 2 * len(shown) <= width:
            break
        shown.remove(min(shown, key=lambda i: columns[i].keep))
    return shown


def _widths(shown: Sequence[int], columns: Sequence[Column], rows: Sequence[Sequence[str] | Line]) -> dict[int, int]:
    texts = [row for row in rows if isinstance(row[0], str)]
    return {i: max([cells(columns[i].title), *(cells(visible(str(row[i]))) for row in texts)]) for i in shown}


def _aligned(text: str, width: int, right: bool) -> str:
    text = elided(text, width)
    space = " " * (width - cells(text))
    return space + text if right else text + space


def heading(text: str) -> Line:
    """A section's first line."""
    return (Span(INDENT), Span(text, "heading"))
