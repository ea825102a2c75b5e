"""What is known and accepted: a baseline of earlier findings, and an allow-list with reasons and expiry dates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptool.errors import FormatError
from adaptool.rules.finding import Finding, Suppressed
from adaptool.tensors.files import open_file
from adaptool.tensors.jsons import parse_json
from adaptool.versions import adapter_digest

if TYPE_CHECKING:
    from adaptool.rules.subject import Subject

BASELINE_LIMIT = 256 << 20

UNCOVERED = {"auto_mapping", "megatron_core"}
"""Fields that name what a loader imports and that no content digest covers: an allowance would hold for any other name
as well."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """One rule, accepted for one adapter as it is: another byte of it and the finding is back."""

    digest: str
    """The adapter's content digest, as ``adaptool inspect --weights`` shows it."""
    rule: str
    reason: str
    expires: date
    """The last day it holds."""


@dataclass(frozen=True)
class Waivers:
    """Findings that do not count."""

    baseline: frozenset[str] | None = None
    """Fingerprints of an earlier run."""
    allowances: tuple[Allowance, ...] = ()
    today: date = date.max
    """What expiry is measured against; without it every allowance has expired."""

    def apply(
        self, subject: Subject, findings: Sequence[Finding]
    ) -> tuple[list[Finding], list[Suppressed], str | None]:
        """Findings that stand, those that are waived, and the adapter's digest where an allow-list asks for it.

        What cannot be opened has no digest, so nothing about it can be allowed.
        """
        rules = {allowance.rule for allowance in self.allowances}
        asked = any(finding.code in rules for finding in findings)
        adapter = subject.adapter_opened.value if asked else None
        digest = adapter_digest(adapter) if adapter is not None else None
        standing: list[Finding] = []
        waived: list[Suppressed] = []
        for finding in findings:
            covered = finding.field.partition(".")[0] not in UNCOVERED
            allowance = self._allowance(finding.code, digest) if covered else None
            if self.baseline is not None and finding.fingerprint in self.baseline:
                waived.append(Suppressed(finding, "baseline", "found in an earlier run"))
            elif allowance is not None:
                waived.append(Suppressed(finding, "allow-list", f"{allowance.reason} (until {allowance.expires})"))
            else:
                standing.append(finding)
        return standing, waived, digest

    def _allowance(self, code: str, digest: str | None) -> Allowance | None:
        return next(
            (a for a in self.allowances if a.rule == code and a.digest == digest and self.today <= a.expires), None
        )


def read_baseline(path: Path) -> frozenset[str]:
    """The fingerprints in the JSON of an earlier ``validate --json``, of findings and of what was waived then."""
    data = parse_json(open_file(path).read_all(BASELINE_LIMIT), str(path), what="baseline")
    if not isinstance(data, dict) or data.get("schema") != "adaptool/validate/1":
        raise FormatError(
            f"{path}: not a baseline", hint="write one with: adaptool validate ADAPTER... --json > baseline.json"
        )
    return frozenset(_fingerprints(data))


def _fingerprints(value: Any) -> list[str]:
    """Every ``fingerprint`` in it, at whatever depth a finding lies."""
    if isinstance(value, dict):
        own = [value["fingerprint"]] if isinstance(value.get("fingerprint"), str) else []
        return own + [found for item in value.values() for found in _fingerprints(item)]
    return [found for item in value for found in _fingerprints(item)] if isinstance(value, list) else []
