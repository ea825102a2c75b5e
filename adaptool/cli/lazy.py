"""Groups of commands whose modules are imported only when they run, so that --help is instant."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

import click

from adaptool.cli.console import Console


class CommandUsage(click.UsageError):
    """A usage error with a hint of its own."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class LazyGroup(click.Group):
    """Commands by name, imported when needed; a misspelt one is answered with the nearest.

    ``table`` gives each command's one line; the command ``name`` is the attribute of that name of ``module`` + name.
    """

    def __init__(self, *args: Any, table: Mapping[str, str], module: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table, self.module = table, module

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.table:
            return None
        command = getattr(importlib.import_module(f"{self.module}{cmd_name}"), cmd_name)
        if not any(option.name == "quiet" for option in command.params):
            command.params.extend(_everywhere())
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.table and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], self.table, n=1)
            hint = f"did you mean: {ctx.command_path} {near[0]}" if near else f"see: {ctx.command_path} --help"
            raise CommandUsage(f"no command {args[0]!r}", hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.table.items()))


def _everywhere() -> Iterator[click.Option]:
    """What every command takes as adaptool itself does: people write it at the end. Only adaptool's help lists it."""
    for names, told in (
        (("-q", "--quiet"), "Print the result and errors only."),
        (("-v", "--verbose"), "Say more: what was taken for what, and the causes of an error."),
        (("--no-color",), "No colour, whatever the terminal."),
    ):
        yield click.Option(names, is_flag=True, hidden=True, expose_value=False, callback=_heard, help=told)


def _heard(ctx: click.Context, option: click.Parameter, given: bool) -> None:
    console = ctx.obj
    if given and isinstance(console, Console):
        console.quiet |= option.name == "quiet"
        console.verbose |= option.name == "verbose"
        console.color &= option.name != "no_color"


def every_command(group: LazyGroup, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command below ``group`` with the words that call it, groups before what is in them."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, f"{name} is listed and not there"
        yield (*above, name), command
        if isinstance(command, LazyGroup):
            yield from every_command(command, (*above, name))
