"""What a check of a repository's versions says: of every adapter, and of all together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from adaptool.comparing.result import Level
from adaptool.rules.finding import Severity, Unchecked
from adaptool.versioning.gate.findings import Finding

State = Literal["added", "changed", "moved", "removed", "unchanged", "present"]
"""Against the revision compared with; moved: in another folder, with the same content. present: nothing to compare."""

Verdict = Literal["ok", "findings", "unchecked"]
"""ok: everything was checked and nothing of the failing level found. unchecked is never ok."""


@dataclass(frozen=True, slots=True)
class AdapterCheck:
    """One adapter's verdict."""

    path: str
    """From the root of the repository; "." is the root."""
    moved_from: str | None
    name: str
    """As its manifest calls it, else its folder."""
    state: State
    version_before: str | None
    """Where the change began; None where there was no manifest."""
    version_after: str | None
    change: str
    """What happened, in words: "re-saved", "continued training", "rank changed"; "" where nothing did."""
    level: Level | None
    """What the change asks of the version; None where there is nothing to compare with, or it is not known."""
    reasons: tuple[str, ...]
    """Why this level."""
    findings: tuple[Finding, ...]
    """The gravest first."""
    unchecked: tuple[Unchecked, ...]
    notes: tuple[str, ...]
    """What a reader should know and nobody must act on: parents in other repositories, bases that are paths."""
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Failed:
    """A path that is no adapter of the repository, or could not be looked at."""

    path: str
    message: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """What ``adaptool version check`` found, adapter by adapter."""

    at: str
    """What was checked: "the working tree", or a revision as given."""
    against: str | None
    """The revision compared with, as given."""
    merge_base: str | None
    """The commit from which the change is counted; None without ``against``, or where the history does not reach it."""
    adapters: tuple[AdapterCheck, ...]
    failures: tuple[Failed, ...]
    notes: tuple[str, ...]
    fail_on: Severity

    @property
    def exit_code(self) -> int:
        """3 where something could not be checked, else 1 where something fails, else 0."""
        if self.failures or any(adapter.verdict == "unchecked" for adapter in self.adapters):
            return 3
        return int(any(adapter.verdict == "findings" for adapter in self.adapters))
