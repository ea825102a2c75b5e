"""``adaptool diff``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from adaptool.cli.console import Console
from adaptool.cli.options import json_option

if TYPE_CHECKING:
    from adaptool.comparing.result import Comparison


@click.command(epilog="Example:  adaptool diff v1.0.0 ./adapter --html diff.html")
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option("--top", type=click.IntRange(0), default=10, show_default=True, help="Modules shown, the furthest first.")
@click.option("--html", "page", metavar="FILE", type=click.Path(path_type=Path), help="Write a page too, one file.")
@click.option("--overwrite", is_flag=True, help="Replace the page.")
@click.option("--format", "style", type=click.Choice(["text", "json", "markdown"]), default="text", show_default=True,
              help="What to print; markdown is for a pull request.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1, 256), help="Threads, for models; default: one per processor.")
@json_option
@click.pass_obj
def diff(console: Console, /, before: str, after: str, top: int, page: Path | None, overwrite: bool, style: str,
         workers: int | None, as_json: bool) -> int:  # fmt: skip
    """Compare two adapters, exactly and in factor space; or two models.

    A and B are folders, files or Git revisions (v1.2.0, HEAD~3:adapters/sql). Equal is what computes the same: saved
    again, re-factorised or re-scaled adapters are.

    Exit code 0: every ΔW and every full tensor is the same. 1: different.
    """
    from adaptool import api
    from adaptool.writing.text_file import refuse_existing, write_text

    if page is not None:
        refuse_existing(page, overwrite=overwrite)
    comparison = api.diff(before, after, workers=workers)
    if page is not None:
        from adaptool.reports.diff_html import diff_html

        write_text(page, diff_html(comparison))
        console.say(f"wrote {page}")
    show(console, comparison, "json" if as_json else style, top)
    return 0 if comparison.equal else 1


def show(console: Console, comparison: Comparison, style: str, top: int) -> None:
    """The comparison on stdout."""
    if style == "json":
        from adaptool.reports.json import to_json

        console.result_json(to_json("diff", comparison))
    elif style == "markdown":
        from adaptool.reports.diff_markdown import diff_markdown

        console.result(diff_markdown(comparison, top=top))
    else:
        from adaptool.reports.diff_text import diff_report
        from adaptool.reports.layout import coloured, plain

        lines = diff_report(comparison, console.width, top=top, verbose=console.verbose, quiet=console.quiet)
        click.echo(coloured(lines) if console.paints else plain(lines))
