"""What ``validate --fix`` changes, and the proof, for people."""

from __future__ import annotations

from adaptool.fixing.job import FixReport
from adaptool.reports.speaker import Speaker

SHOWN = 8
"""Files left behind that are named before the rest is counted."""


def plan(speaker: Speaker, report: FixReport) -> None:
    """What a dry run would change."""
    for change in report.changes:
        speaker.result(f"would fix: {change.what}")
    _left(speaker, report)


def summary(speaker: Speaker, report: FixReport) -> None:
    """What was changed, and how it was proved."""
    for change in report.changes:
        speaker.say(f"fixed: {change.what}")
    if report.proof is not None:
        proof = report.proof
        if proof.modules:
            how = f"at most {proof.largest:.1e} apart, in {proof.module}" if proof.largest else "equal"
            speaker.say(
                f"proved: the updates of {proof.modules} modules are {how}; {proof.tensors} tensors are the same bytes"
            )
        else:
            speaker.say(f"proved: {proof.tensors} tensors are the same bytes")
    _left(speaker, report)


def _left(speaker: Speaker, report: FixReport) -> None:
    if report.left:
        more = f" and {len(report.left) - SHOWN} more" if len(report.left) > SHOWN else ""
        speaker.say(f"not taken along: {', '.join(report.left[:SHOWN])}{more}")
