"""``adaptool validate --fix``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from adaptool.cli.console import Console
from adaptool.cli.writing import carry_out
from adaptool.errors import UsageError

if TYPE_CHECKING:
    from adaptool.rules.engine import Options


def carry_out_fix(
    console: Console, paths: tuple[str, ...], base: Path | None, out: Path | None, options: Options, *,
    dry_run: bool, overwrite: bool, style: str,
) -> int | None:  # fmt: skip
    """Write the one adapter corrected, then validate what was written; the exit code is that validation's.

    None where there is nothing to correct: then the adapter is validated as it is.
    """
    from adaptool import api
    from adaptool.reports import text_fix

    if len(paths) != 1:
        raise UsageError("--fix takes one adapter at a time")
    if out is None:
        raise UsageError(
            "--fix needs --out, the folder to write", hint=f"adaptool validate {paths[0]} --fix --out fixed/"
        )
    if style not in ("text", "json"):
        raise UsageError(f"--fix prints text or JSON, not {style}", hint="validate what it wrote with --format")
    consumers = options.selection.consumers
    job = api.fix(paths[0], out, base, consumers=consumers, workers=options.workers, overwrite=overwrite)
    as_json = style == "json"
    if not job.state.changes:
        console.note("there is nothing that --fix can correct, so nothing is written")
        return None
    carry_out(console, job, "fix", plan=text_fix.plan, summary=text_fix.summary, dry_run=dry_run, as_json=as_json)
    if dry_run:
        return 0
    after = api.validate([out], base, options)
    if after.exit_code:
        from adaptool.reports.validation import validation_text

        console.say("what is left to be decided by you:")
        click.echo(validation_text(after, console.width, quiet=console.quiet, paints=console.paints), err=True)
    return after.exit_code
