"""GitHub workflow commands: annotations on the files of a pull request, here those of a validation.

Syntax: GitHub's documentation, "Workflow commands for GitHub Actions".
"""

from __future__ import annotations

from adaptool.reports.findings import everything, path_of, tensors_of
from adaptool.rules.engine import AdapterReport, Validation
from adaptool.rules.finding import Finding, Severity

COMMANDS: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "notice"}


def github(validation: Validation) -> str:
    """One command a line."""
    found = [_annotation(report, finding) for report, finding in everything(validation)]
    unchecked = [
        unable(f"{report.path}: {item.code}: {item.reason}")
        for report in validation.results
        if report.verdict == "unchecked"
        for item in report.unchecked
    ]
    failures = [unable(failure.message) for failure in validation.failures]
    return "\n".join([*found, *unchecked, *failures])


def _annotation(report: AdapterReport, finding: Finding) -> str:
    inside = "" if finding.field or not finding.tensors else f"\n{tensors_of(finding)}"
    text = f"{finding.message}{inside}\nFix: {finding.fix}"
    return annotation(
        finding.severity, text, file=path_of(report, finding), line=finding.line or 1,
        title=f"{finding.code} {finding.title}",
    )  # fmt: skip


def annotation(severity: Severity, text: str, *, file: str, line: int = 1, title: str) -> str:
    """The command that puts ``text`` beside a line of a file."""
    properties = {"file": file, "line": str(line), "title": title}
    named = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    return f"::{COMMANDS[severity]} {named}::{_data(text)}"


def unable(text: str) -> str:
    """The command that says what could not be checked."""
    return f"::error title=could not be checked::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
