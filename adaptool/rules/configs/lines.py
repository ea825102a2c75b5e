"""Where in adapter_config.json a field stands, so that an editor and a pull request can show it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from adaptool.adapters.config import CONFIG_NAME
from adaptool.rules.finding import Problem

if TYPE_CHECKING:
    from adaptool.rules.subject import Subject

_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"(\s*:)?|[{}\[\]\n]', re.DOTALL)
"""A string (a key, where a colon follows), a bracket, or the end of a line."""


def line_of(problem: Problem, subject: Subject) -> int | None:
    """The line of a problem's field, from 1: the entry's where it names one ("rank_pattern.q_proj")."""
    if problem.file != CONFIG_NAME or not problem.field:
        return None
    lines = subject.once("lines", lambda: _lines(subject.config_bytes.value or b""))
    name, _, entry = problem.field.partition(".")
    return lines.get((name, entry), lines.get((name, "")))


def _lines(config: bytes) -> dict[tuple[str, str], int]:
    """Where every field begins, and every entry of one: by (field, entry), the field's own with ""."""
    found: dict[tuple[str, str], int] = {}
    field = None
    for depth, key, line in _keys(config.decode("utf-8", "replace")):
        if depth == 1:
            field = key if (key, "") not in found else None  # what stands twice is where it stood first
            found.setdefault((key, ""), line)
        elif depth == 2 and field is not None:
            found.setdefault((field, key), line)
    return found


def _keys(text: str) -> Iterator[tuple[int, str, int]]:
    """Every key with its depth, 1 for the config's own, and its line."""
    depth, line = 0, 1
    for found in _TOKEN.finditer(text):
        mark = found[0]
        if mark in "{[":
            depth += 1
        elif mark in "}]":
            depth -= 1
        elif mark == "\n":
            line += 1
        elif found[2] is not None:
            yield depth, found[1], line
            line += found[2].count("\n")
