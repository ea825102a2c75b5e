"""A check as GitHub workflow commands: a finding stands beside the file that it is about."""

from __future__ import annotations

from adaptool.reports.check_words import place
from adaptool.reports.github import annotation, unable
from adaptool.versioning.gate.check_result import AdapterCheck, Check
from adaptool.versioning.gate.findings import Finding


def check_github(check: Check) -> str:
    """One command a line."""
    found = [_annotation(adapter, finding) for adapter in check.adapters for finding in adapter.findings]
    unchecked = [
        unable(f"{adapter.path}: {one.code}: {one.reason}") for adapter in check.adapters for one in adapter.unchecked
    ]
    return "\n".join([*found, *unchecked, *(unable(failure.message) for failure in check.failures)])


def _annotation(adapter: AdapterCheck, finding: Finding) -> str:
    fix = f"\nFix: {finding.fix}" if finding.fix else ""
    return annotation(
        finding.severity, f"{finding.message}{fix}", file=place(adapter, finding),
        title=f"{finding.code} {finding.title}",
    )  # fmt: skip
