"""What a log says: of every commit that touched an adapter, and how far it went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from adaptool.comparing.result import Level
from adaptool.rules.finding import Unchecked
from adaptool.versioning.gate.check_result import State, Verdict
from adaptool.versioning.gate.findings import Finding

Drifted = Literal["measured", "not fetched", "unreadable", "no updates", "not asked"]
"""Whether the drift could be measured. no updates: it is no LoRA, or of another size. not asked: --no-drift."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One commit of an adapter's history."""

    commit: str
    parents: tuple[str, ...]
    date: str
    """The author's, ISO 8601."""
    author: str
    email: str
    subject: str
    tags: tuple[str, ...]
    """That lead to this commit and are the adapter's."""
    path: str
    """Its folder at this commit; "." is the root."""
    moved_from: str | None
    state: State
    version_before: str | None
    version_after: str | None
    change: str
    """What happened, in words."""
    asked: Level | None
    """What the change asks of the version; None where there was nothing before, or it cannot be told."""
    given: Level | None
    """The step the version made; None where there is none on one side."""
    reasons: tuple[str, ...]
    verdict: Verdict
    """Of this commit, as ``version check --against`` its first parent gives it."""
    findings: tuple[Finding, ...]
    unchecked: tuple[Unchecked, ...]
    drift: Drifted
    norm: float | None
    """√Σ‖ΔW‖² over all modules."""
    drift_previous: float | None
    """‖ΔW − ΔW of the entry before‖ as a share of that one's norm."""
    drift_first: float | None
    """The same from the first entry that has a ΔW."""


@dataclass(frozen=True, slots=True)
class Log:
    """An adapter's history."""

    name: str
    path: str
    """Where it is now, or was last."""
    revision: str
    """Whose history it is, as given."""
    entries: tuple[Entry, ...]
    """The newest first."""
    notes: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """3 where no entry's content is in this clone, so that nothing could be compared; else 0: a log is no gate."""
        lacking = [entry for entry in self.entries if entry.drift == "not fetched"]
        return 3 if lacking and not any(entry.drift in ("measured", "no updates") for entry in self.entries) else 0
