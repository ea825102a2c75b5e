"""A validation in whichever format was asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from adaptool.reports.github import github
from adaptool.reports.json import to_json
from adaptool.reports.junit import junit
from adaptool.reports.layout import coloured, plain
from adaptool.reports.markdown import markdown
from adaptool.reports.sarif import sarif
from adaptool.reports.validate_text import validation_report
from adaptool.rules.engine import Validation

WRITERS: Mapping[str, Callable[[Validation], str]] = {
    "github": github,
    "json": lambda validation: json.dumps(to_json("validate", validation), indent=2),
    "junit": junit,
    "markdown": markdown,
    "sarif": sarif,
}
"""Formats for machines and pages; ``text`` is for the terminal it goes to."""


def validation_text(
    validation: Validation, width: int, *, verbose: bool = False, quiet: bool = False, paints: bool = False
) -> str:
    """The validation for people, in at most ``width`` columns, coloured where ``paints``."""
    lines = validation_report(validation, width, verbose=verbose, quiet=quiet)
    return coloured(lines) if paints else plain(lines)
