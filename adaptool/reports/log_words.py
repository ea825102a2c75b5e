"""What every report of a log says alike: an entry's version, its step, its drift."""

from __future__ import annotations

from collections.abc import Sequence

from adaptool.comparing.level import ORDER
from adaptool.reports.figures import percent
from adaptool.versioning.log.log_result import Entry, Log

GRAVE = {"VER501"}
"""Codes that are no fault of the commit."""


def step(entry: Entry) -> str:
    """The step the version made, and what the change asked for where that is more: "patch", "minor, got patch"."""
    if entry.asked in (None, "none") and entry.given in (None, "none"):
        return ""
    if entry.asked is None or entry.given is None:
        return entry.given or ""
    return entry.given if ORDER.index(entry.given) >= ORDER.index(entry.asked) else f"{entry.asked}, got {entry.given}"


def version(entry: Entry) -> str:
    """The version it has, with "=" where the entry before has it, too."""
    if entry.state == "removed":
        return f"({entry.version_before})" if entry.version_before else ""
    return entry.version_after or "none"


def happened(entry: Entry) -> str:
    """What the commit did."""
    moved = f"moved from {entry.moved_from}" if entry.moved_from is not None else ""
    known = "" if moved and entry.change in ("moved", "record only") else entry.change
    return ", ".join(part for part in (moved, known) if part)


def drifted(entry: Entry, share: float | None) -> str:
    """A drift, or why there is none."""
    if entry.drift == "measured":
        return percent(share) or "-"
    return "" if entry.drift in ("no updates", "not asked") else entry.drift


def course(log: Log) -> tuple[Sequence[float | None], Sequence[float | None]]:
    """Drift from the previous and from the first, the oldest first."""
    old = log.entries[::-1]
    return [entry.drift_previous for entry in old], [entry.drift_first for entry in old]


def codes(entry: Entry) -> str:
    """The findings' codes; "?" where something could not be checked."""
    found = sorted({one.code for one in entry.findings if one.code not in GRAVE})
    return " ".join([*found, *(["?"] if entry.unchecked else [])])
