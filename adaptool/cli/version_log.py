"""``adaptool version log``."""

from __future__ import annotations

from pathlib import Path

import click

from adaptool.cli.console import Console
from adaptool.cli.options import json_option


@click.command(epilog="Example:  adaptool version log adapters/sql --html history.html")
@click.argument("adapter", metavar="[ADAPTER]", required=False)
@click.option("-n", "--max-count", "limit", type=click.IntRange(1), metavar="N", help="The newest N commits.")
@click.option("--rev", "revision", metavar="RANGE", default="HEAD", show_default=True,
              help="Whose history: a revision, or a range such as v1.0.0..HEAD.")  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="Every commit of merged branches, not the merges alone.")
@click.option("--drift/--no-drift", default=True, help="Measure how far ΔW went (on).")
@click.option("--html", "page", metavar="FILE", type=click.Path(path_type=Path), help="Write a page too, one file.")
@click.option("--overwrite", is_flag=True, help="Replace the page.")
@json_option
@click.pass_obj
def log(console: Console, /, adapter: str | None, limit: int | None, revision: str, everything: bool, drift: bool,
        page: Path | None, overwrite: bool, as_json: bool) -> int:  # fmt: skip
    """Draw an adapter's history from Git: version, date, author, kind of change, and how far ΔW went.

    Follows the folder through renames, removals and merges. The step is what a change asked of the version, and what
    it got where that is not the same; the findings are those of "version check" at that commit.

    Exit code 0, also with findings: a log is no gate. 3: nothing could be compared, all of it is not fetched.
    """
    from adaptool.versioning.verbs import version_log
    from adaptool.writing.text_file import refuse_existing, write_text

    if page is not None:
        refuse_existing(page, overwrite=overwrite)
    found = version_log(adapter, revision=revision, limit=limit, drift=drift, first_parent=not everything)
    if page is not None:
        from adaptool.reports.log_html import log_html

        write_text(page, log_html(found))
        console.say(f"wrote {page}")
    if as_json:
        from adaptool.reports.json import to_json

        console.result_json(to_json("version-log", found))
    else:
        from adaptool.reports.layout import coloured, plain
        from adaptool.reports.log_text import log_report

        lines = log_report(found, console.width, verbose=console.verbose)
        click.echo(coloured(lines) if console.paints else plain(lines))
    for note in found.notes:
        console.note(note)
    return found.exit_code
