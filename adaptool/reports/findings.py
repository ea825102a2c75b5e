"""What every report of a validation says alike: where a finding is, and its lines."""

from __future__ import annotations

import os
from pathlib import Path

from adaptool.reports.layout import visible
from adaptool.rules.engine import AdapterReport, Validation
from adaptool.rules.finding import MOST_TENSORS, Finding, Severity

FEW = 1
"""Saved keys named in a report before the rest is counted; --json has them all."""


def path_of(report: AdapterReport, finding: Finding) -> str:
    """The file a finding is in, from where the user stands if it lies below; in no file, the folder."""
    path = Path(report.path, finding.file)
    try:
        relative = os.path.relpath(path)
    except ValueError:  # another drive
        return str(path)
    return str(path) if relative.startswith("..") else relative


def place_of(finding: Finding) -> str:
    """``adapter_config.json:21 lora_alpha``, or the file and its first tensors."""
    line = f":{finding.line}" if finding.line else ""
    inside = finding.field or tensors_of(finding)
    return visible(f"{finding.file}{line}  {inside}".strip())


def tensors_of(finding: Finding) -> str:
    """The tensors concerned: the first few, and how many more."""
    shown = ", ".join(finding.tensors[:FEW])
    if len(finding.tensors) >= MOST_TENSORS:
        return f"{shown} and a thousand or more besides"
    return f"{shown} and {len(finding.tensors) - FEW} more" if len(finding.tensors) > FEW else shown


def counts(findings: list[Finding]) -> str:
    """``2 errors, 1 warning, 3 notes``; what there is none of is left out."""
    words: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "note"}
    numbers = [(sum(f.severity == severity for f in findings), word) for severity, word in words.items()]
    return ", ".join(f"{number} {word}{'s' * (number > 1)}" for number, word in numbers if number)


def everything(validation: Validation) -> list[tuple[AdapterReport, Finding]]:
    """Every finding with the adapter it is of."""
    return [(report, finding) for report in validation.results for finding in report.findings]
