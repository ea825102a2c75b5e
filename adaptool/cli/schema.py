"""``adaptool schema``."""

from __future__ import annotations

import difflib

import click

from adaptool.cli.console import Console
from adaptool.errors import UsageError


@click.command(epilog="Example:  adaptool schema inspect")
@click.argument("name", required=False)
@click.pass_obj
def schema(console: Console, name: str | None) -> int:
    """Print the JSON Schema called NAME, or list the names."""
    from adaptool.reports.schemas import read_schema, schema_names

    names = schema_names()
    if name is None:
        width = max(map(len, names))
        console.result("\n".join(f"{one.ljust(width)}  {read_schema(one)['title']}" for one in names))
        return 0
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean: {near[0]}" if near else f"one of: {', '.join(names)}"
        raise UsageError(f"no schema {name!r}", hint=hint)
    console.result_json(read_schema(name))
    return 0
