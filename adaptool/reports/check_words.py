"""What every report of a check says alike: places, marks, the change of a version in a few words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adaptool.rules.finding import Severity
from adaptool.versioning.gate.check_result import AdapterCheck, Check, State
from adaptool.versioning.gate.findings import Finding

STATES: Mapping[State, str] = {"added": "new", "changed": "changed", "moved": "moved", "removed": "removed",
                               "unchanged": "unchanged", "present": ""}  # fmt: skip
COUNTED: Mapping[Severity, str] = {"error": "error", "warning": "warning", "info": "note"}


def place(adapter: AdapterCheck, finding: Finding) -> str:
    """The file a finding is about, from the root of the repository."""
    return finding.file if adapter.path == "." else f"{adapter.path}/{finding.file}"


def versions(adapter: AdapterCheck) -> str:
    """``1.1.0 → 1.2.0``, or the one version it has."""
    before, after = adapter.version_before, adapter.version_after
    if adapter.state == "removed":
        return before or ""
    return f"{before} → {after or 'none'}" if before is not None and before != after else after or "none"


def happened(adapter: AdapterCheck) -> str:
    """What became of it: ``continued training``, ``moved from old/sql``."""
    moved = f"moved from {adapter.moved_from}" if adapter.moved_from is not None else ""
    known = adapter.change if adapter.change not in ("new", "removed") else ""
    said = known or (STATES[adapter.state] if not moved else "")
    return ", ".join(part for part in (moved, said) if part)


def asked(adapter: AdapterCheck) -> str:
    """The level the change asks for."""
    return "" if adapter.level in (None, "none") or adapter.state in ("unchanged", "present") else str(adapter.level)


def counted(findings: Sequence[Finding]) -> str:
    """``2 errors, 1 warning``; what there is none of is left out."""
    numbers = [(sum(one.severity == severity for one in findings), word) for severity, word in COUNTED.items()]
    return ", ".join(f"{number} {word}{'s' * (number > 1)}" for number, word in numbers if number)


def outcome(adapter: AdapterCheck) -> str:
    """The verdict in words."""
    found = counted(adapter.findings)
    if adapter.verdict == "unchecked":
        return f"not checked{f', {found}' if found else ''}"
    return found if adapter.verdict == "findings" else f"ok ({found})" if found else "ok"


def total(check: Check) -> str:
    """All of it in one sentence."""
    many = len(check.adapters)
    found = counted([finding for adapter in check.adapters for finding in adapter.findings]) or "no findings"
    unchecked = sum(adapter.verdict == "unchecked" for adapter in check.adapters) + len(check.failures)
    unchanged = sum(adapter.state == "unchanged" for adapter in check.adapters)
    parts = [f"{many} adapter{'s' * (many != 1)}"]
    if unchanged:
        parts.append(f"{unchanged} unchanged")
    parts.append(found)
    if unchecked:
        parts.append(f"{unchecked} could not be checked")
    return ", ".join(parts)
