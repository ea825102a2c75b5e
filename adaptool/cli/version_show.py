"""``adaptool version show``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from adaptool.cli.console import Console
from adaptool.cli.options import json_option
from adaptool.errors import AdaptoolError

if TYPE_CHECKING:
    from adaptool.versioning.places import PlacedAdapter
    from adaptool.versioning.shown import Shown


@click.command(epilog="Example:  adaptool version show sql-v1.2.0")
@click.argument("adapters", metavar="[ADAPTER|REVISION]...", nargs=-1)
@json_option
@click.pass_obj
def show(console: Console, /, adapters: tuple[str, ...], as_json: bool) -> int:
    """Show what version an adapter is: content, base, lineage, metrics, and from Git who and when.

    ADAPTER is a folder, a tree with many, or a Git revision (v1.2.0, HEAD~3:adapters/sql); default: this folder, in a
    bare clone every adapter at HEAD.
    """
    from adaptool.reports.json import to_json
    from adaptool.versioning.planned import Failure
    from adaptool.versioning.shown import Shown
    from adaptool.versioning.shown import show as look

    found, failures = list[Shown](), list[Failure]()
    for place in _places(adapters):
        try:
            found.append(look(place))
        except AdaptoolError as error:
            failures.append(Failure(place.given, error.message, error.hint, error.exit_code))
    if as_json:
        console.result_json(to_json("version-show", {"adapters": found, "failures": failures}))
    else:
        _tell(console, found)
    for failure in failures:
        console.fail(failure.message, failure.hint, code=failure.exit_code)
    return max((failure.exit_code for failure in failures), default=0)


def _places(adapters: Sequence[str]) -> Iterator[PlacedAdapter]:
    from adaptool.git.repository import find_repository
    from adaptool.versioning.places import adapters_at_head, placed_adapters

    here = None if adapters else find_repository(Path())
    if here is not None and here.bare:
        yield from adapters_at_head(here)
        return
    for text in adapters or (".",):
        yield from placed_adapters(text)


def _tell(console: Console, found: Sequence[Shown]) -> None:
    from adaptool.reports.layout import coloured, plain
    from adaptool.reports.version_text import shown_report

    for number, shown in enumerate(found):
        lines = shown_report(shown, console.width, verbose=console.verbose)
        click.echo(("\n" if number else "") + (coloured(lines) if console.paints else plain(lines)))
