"""Where in adapter_config.json a field stands, so that an editor and a pull request can show it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from adaptool.adapters.config import CONFIG_NAME
from adaptool.rules.finding import Problem

if TYPE_CHECKING:
    from adaptool.rules.subject import Subject


def line_of(problem: Problem, subject: Subject) -> int | None:
    """The line of a problem's field, from 1: the entry's where it names one ("rank_pattern.q_proj")."""
    if problem.file != CONFIG_NAME or not problem.field or subject.config_bytes.value is None:
        return None
    text = subject.config_bytes.value.decode("utf-8", "replace")
    name, _, entry = problem.field.partition(".")
    at = _key(text, name, 0)
    if at is None:
        return None
    inside = _key(text, entry, at) if entry else None
    return text.count("\n", 0, at if inside is None else inside) + 1


def _key(text: str, name: str, start: int) -> int | None:
    found = re.compile(rf'"{re.escape(name)}"\s*:').search(text, start)
    return found.start() if found else None
