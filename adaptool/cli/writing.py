"""What every command that writes does with its job: notes, dry run, progress, the report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from adaptool.cli.console import Console

Telling = Callable[[Console, Any], None]


def carry_out(
    console: Console, job: Any, kind: str, *, plan: Telling, summary: Telling, dry_run: bool, as_json: bool
) -> int:
    """Run a write job, or with ``dry_run`` check it and tell its plan; ``kind`` names the JSON ("merge")."""
    from adaptool.reports.json import to_json

    for note in job.notes:
        console.note(note)
    if dry_run:
        job.check(dry=True)
        console.result_json(to_json(f"{kind}-plan", job.estimate)) if as_json else plan(console, job.estimate)
        return 0
    try:
        console.progress(job, job.nbytes)
    except KeyboardInterrupt:
        if job.partial.is_dir():
            console.say(f"{job.partial} holds what was done: run again with --resume to go on")
        raise
    for remark in job.remarks:
        console.note(remark)
    summary(console, job.report)
    console.result_json(to_json(kind, job.report)) if as_json else console.result(str(job.report.out))
    return 0
