"""The error rules before a merge: what would be carried into a model for good stops here."""

from __future__ import annotations

from collections.abc import Sequence

from adaptool.adapters.adapter import Adapter
from adaptool.errors import MismatchError
from adaptool.rules.engine import Options, validate_subject
from adaptool.rules.selection import Selection
from adaptool.rules.subject import Subject

ELSEWHERE = ("CFG40",)
"""Where the base is to be found is said by --base, whatever the config calls it."""


def refuse_errors(adapter: Adapter, ignore: Sequence[str] = ()) -> tuple[str, ...]:
    """Raise MismatchError for the first error ``validate`` finds in an adapter; else what it could not check, as notes.

    ``ignore`` holds the prefixes of codes that somebody has looked at.
    """
    weights = adapter.path if adapter.path.is_file() else None
    report = validate_subject(Subject(adapter.folder, weights), Options(Selection(ignore=(*ELSEWHERE, *ignore))))
    errors = [finding for finding in report.findings if finding.severity == "error"]
    if errors:
        first, more = errors[0], f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise MismatchError(
            f"{adapter.path}: {first.code}: {first.message}{more}",
            hint=f"see: adaptool validate {adapter.path}; --ignore {first.code} merges it all the same",
        )
    return tuple(f"{adapter.name}: {item.code} could not be checked: {item.reason}" for item in report.unchecked)
