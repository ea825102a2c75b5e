"""What validation says: a problem as a rule states it, a finding as it is reported, and what could not be checked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, Protocol

Severity = Literal["error", "warning", "info"]
"""error: it breaks or is silently wrong. warning: probably not what was meant. info: worth knowing."""

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
"""The gravest first."""

MOST_TENSORS = 1000
"""Named in a finding, whose message says how many they are: no report needs to be as long as a hostile header."""


class Graded(Protocol):
    """A finding of whatever is checked."""

    @property
    def severity(self) -> Severity: ...


def fails(finding: Graded, fail_on: Severity) -> bool:
    """Whether a finding is grave enough to fail."""
    return SEVERITIES.index(finding.severity) <= SEVERITIES.index(fail_on)


Verdict = Literal["ok", "findings", "unchecked"]
"""ok: everything selected was checked and nothing of the failing level found. unchecked is never ok."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What a rule's generator yields: where it is and what is wrong there; the rest is the rule's own."""

    message: str
    """One sentence, with the names and the numbers in it."""
    file: str = ""
    """The file it is in, by its path from the adapter's folder; "" where it is the adapter as a whole."""
    field: str = ""
    """In a config, the field: ``rank_pattern``, or ``rank_pattern.q_proj`` for an entry of it."""
    tensors: tuple[str, ...] = ()
    """The saved keys concerned, all of them: one problem of 200 tensors is one finding."""
    fix: str = ""
    """What to do here, where it is more exact than the rule's own advice."""
    severity: Severity | None = None
    """Where this case is graver or milder than the rule's severity."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding about one adapter."""

    code: str
    severity: Severity
    title: str
    message: str
    fix: str
    file: str
    field: str
    tensors: tuple[str, ...]
    """The saved keys concerned, MOST_TENSORS of them at most."""
    line: int | None
    """Of ``field`` in ``file``, from 1."""
    fingerprint: str
    """Stays the same as long as the problem does: what a baseline and a SARIF viewer know it by."""


@dataclass(frozen=True, slots=True)
class Unchecked:
    """A selected rule that could not be checked, and why: never to be taken for silence."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Suppressed:
    """A finding that a baseline or an allow-list takes out of the verdict, and its justification."""

    finding: Finding
    by: Literal["baseline", "allow-list"]
    reason: str


def fingerprint(code: str, problem: Problem, adapter: str, number: int = 0) -> str:
    """16 hex digits over rule, adapter and place, but not the wording: numbers in a message may change.

    ``number`` tells a rule's problems in one place apart.
    """
    place = [code, adapter, problem.file, problem.field, *sorted(problem.tensors)]
    if not (problem.field or problem.tensors):
        place.append(problem.message)
    if number:
        place.append(str(number))
    return hashlib.sha256("\0".join(place).encode("utf-8", "surrogatepass")).hexdigest()[:16]
