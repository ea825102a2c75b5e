"""A check in whichever format was asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from adaptool.reports.check_github import check_github
from adaptool.reports.check_junit import check_junit
from adaptool.reports.check_markdown import check_markdown
from adaptool.reports.json import to_json
from adaptool.versioning.gate.check_result import Check

WRITERS: Mapping[str, Callable[[Check], str]] = {
    "github": check_github,
    "json": lambda check: json.dumps({**to_json("version-check", check), "exit_code": check.exit_code}, indent=2),
    "junit": check_junit,
    "markdown": check_markdown,
}
"""Formats for machines and pages; ``text`` is for the terminal it goes to."""
