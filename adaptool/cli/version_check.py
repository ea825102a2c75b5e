"""``adaptool version check``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from adaptool.cli.console import Console
from adaptool.cli.options import json_option

if TYPE_CHECKING:
    from adaptool.rules.finding import Severity
    from adaptool.versioning.gate.check_result import Check

FORMATS = click.Choice(["text", "json", "junit", "github", "markdown"])
LEVELS = click.Choice(["error", "warning"])


@click.command(epilog="Example:  adaptool version check --against origin/main")
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@click.option("--against", metavar="REF", help="Judge the change since this parted from REF, and nothing else.")
@click.option("--at", metavar="REV", help="What to check; default: the working tree, in a bare repository HEAD.")
@click.option("--remote", metavar="NAME", help="Compare tags with this remote's too (goes over the network).")
@click.option("--select", metavar="CODES", multiple=True, help="Only these findings: codes or prefixes, VER1,VER301.")
@click.option("--ignore", metavar="CODES", multiple=True, help="Not these.")
@click.option("--fail-on", type=LEVELS, default="error", show_default=True, help="The mildest finding that fails.")
@click.option("--format", "style", type=FORMATS, default="text", show_default=True,
              help="What to print; markdown is for a pull request's comment.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1, 256), help="Threads; default: one per processor.")
@json_option
@click.pass_obj
def check(console: Console, /, paths: tuple[str, ...], against: str | None, at: str | None, remote: str | None,
          select: tuple[str, ...], ignore: tuple[str, ...], fail_on: Severity, style: str, workers: int | None,
          as_json: bool) -> int:  # fmt: skip
    """Check the versions of a repository's adapters: the gate in CI.

    Finds content that changed without a new version, or with too small a step; manifests that are not of what lies
    beside them; versions that go backwards or are taken; tags that moved; bases not pinned; parents that do not exist.
    PATH limits it to folders. Works in shallow clones and on LFS pointers.

    Exit code 0: good. 1: findings. 3: something could not be checked ("not fetched"), which is never "good".
    """
    from adaptool.versioning.verbs import version_check

    result = version_check(
        paths, against=against, at=at, remote=remote, select=select, ignore=ignore, fail_on=fail_on, workers=workers
    )
    show(console, result, "json" if as_json else style)
    return result.exit_code


def show(console: Console, result: Check, style: str) -> None:
    """The check on stdout as ``style``; what could not be looked at, and notes, on stderr."""
    if style == "text":
        from adaptool.reports.check_text import check_report
        from adaptool.reports.layout import coloured, plain

        lines = check_report(result, console.width, verbose=console.verbose, quiet=console.quiet)
        if lines:
            click.echo(coloured(lines) if console.paints else plain(lines))
    else:
        from adaptool.reports.check_formats import WRITERS

        if text := WRITERS[style](result):
            console.result(text)
    for note in result.notes:
        console.note(note)
    for failure in result.failures:
        console.fail(failure.message, failure.hint, code=3)
