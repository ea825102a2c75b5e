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
COMBINED = 4
"""Characters that a column may hold: a letter and its marks."""
GAP = 2
ELASTIC_ENOUGH, ELASTIC_MINIMUM = 20, 12


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of text in one style."""

    text: str
    style: Style = ""


Line = tuple[Span, ...]
Row = list[str] | Line

BLANK: Line = ()


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
    """The text in its colour, without colouring the space after it."""
    text = span.text.rstrip()
    return f"\x1b[{ANSI[span.style]}m{text}\x1b[0m{span.text[len(text) :]}" if span.style and text else span.text


def visible(text: str) -> str:
    """``text`` with all escaped that would not show as itself: control characters, line breaks, direction marks."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def cells(text: str) -> int:
    """Columns a terminal gives ``text``: two for wide characters, none for combining ones."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def elided(text: str, width: int) -> str:
    """``text`` in at most ``width`` columns, its middle replaced by … where it is longer, be it in combining marks."""
    if len(text) <= COMBINED * width and cells(text) <= width:
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


def table(columns: Sequence[Column], rows: Sequence[Row], width: int) -> list[Line]:
    """A table in at most ``width`` columns where that is possible; a row that is a Line already stands as it is."""
    body = [row if isinstance(row, tuple) else [visible(text) for text in row] for row in rows]
    widths = _fitting(columns, [row for row in body if isinstance(row, list)], width)
    spare = width - len(INDENT) - sum(widths.values()) - GAP * (len(widths) - 1)
    for i in sorted((i for i in widths if columns[i].elastic), key=lambda i: -widths[i]):
        if spare < 0 and widths[i] > ELASTIC_MINIMUM:
            given = min(-spare, widths[i] - ELASTIC_MINIMUM)
            widths[i], spare = widths[i] - given, spare + given

    def line(texts: Sequence[str], style: Style = "") -> Line:
        parts = (Span(_aligned(texts[i], widths[i], columns[i].right), style or columns[i].style) for i in widths)
        return (Span(INDENT), *(span for part in parts for span in (part, Span(" " * GAP))))

    head = line([column.title for column in columns], "heading")
    return [head, *(row if isinstance(row, tuple) else line(row) for row in body)]


def under_stacks(rows: Iterable[tuple[str, list[str]]]) -> list[Row]:
    """Rows, each with the stack of layers its module is in, beneath a line for each new stack."""
    lines: list[Row] = []
    current = ""
    for stack, row in rows:
        if stack and stack != current:
            lines.append((Span(INDENT), Span(visible(stack), "dim")))
        current = stack
        lines.append([f"{INDENT if stack else ''}{row[0]}", *row[1:]])
    return lines


def _fitting(columns: Sequence[Column], rows: Sequence[list[str]], width: int) -> dict[int, int]:
    """The columns that fit with their widths, the cheapest dropped first, after those that are empty in every row."""
    shown = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    while True:
        widths = {i: max([cells(columns[i].title), *(cells(row[i]) for row in rows)]) for i in shown}
        need = sum(min(wide, ELASTIC_ENOUGH) if columns[i].elastic else wide for i, wide in widths.items())
        if len(INDENT) + need + GAP * (len(shown) - 1) <= width or len(shown) == 1:
            return widths
        shown.remove(min(shown, key=lambda i: columns[i].keep))


def _aligned(text: str, width: int, right: bool) -> str:
    text = elided(text, width)
    space = " " * (width - cells(text))
    return space + text if right else text + space


def heading(text: str) -> Line:
    """A section's first line."""
    return (Span(INDENT), Span(text, "heading"))
