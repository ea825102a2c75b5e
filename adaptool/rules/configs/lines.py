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
    if problem.file != CONFIG_NAME or not problem.field or subject.config_bytes.value is None:
        return None
    text = subject.config_bytes.value.decode("utf-8", "replace")
    name, _, entry = problem.field.partition(".")
    line = None
    for depth, key, at in _keys(text):
        if depth == 1:
            if line is not None:
                break
            if key == name:
                line = at
        elif line is not None and depth == 2 and key == entry:
            return at
    return line


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
