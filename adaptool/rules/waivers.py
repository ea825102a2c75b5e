"""What is known and accepted: a baseline of earlier findings, and an allow-list with reasons and expiry dates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptool.rules.finding import Finding, Suppressed

if TYPE_CHECKING:
    from adaptool.rules.subject import Subject


@dataclass(frozen=True)
class Waivers:
    """Findings that do not count."""

    baseline: frozenset[str] = frozenset()
    """Fingerprints of an earlier run."""

    def apply(
        self, subject: Subject, findings: Sequence[Finding]
    ) -> tuple[list[Finding], list[Suppressed], str | None]:
        """Findings that stand, those that are waived, and the adapter's digest where it was needed."""
        known = [finding for finding in findings if finding.fingerprint in self.baseline]
        standing = [finding for finding in findings if finding.fingerprint not in self.baseline]
        return standing, [Suppressed(finding, "baseline", "") for finding in known], None
