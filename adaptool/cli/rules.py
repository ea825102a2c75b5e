"""``adaptool rules``."""

from __future__ import annotations

import difflib

import click

from adaptool.cli.console import Console
from adaptool.cli.options import json_option
from adaptool.errors import UsageError


@click.command(epilog="Example:  adaptool rules TEN101")
@click.argument("code", required=False)
@json_option
@click.pass_obj
def rules(console: Console, code: str | None, as_json: bool) -> int:
    """Explain the rule CODE (or all whose codes begin so), or list every rule of ``validate``."""
    from adaptool.reports.rules_text import explained, listed, rule_values
    from adaptool.rules.catalogue import RULES, catalogue

    chosen = tuple(rule for rule in catalogue() if code is None or rule.code.startswith(code.upper()))
    if not chosen:
        near = difflib.get_close_matches(str(code).upper(), RULES, n=1)
        hint = f"did you mean: {near[0]}" if near else "see: adaptool rules"
        raise UsageError(f"no rule {code!r}", hint=hint)
    if as_json:
        from adaptool.reports.json import to_json

        console.result_json(to_json("rules", {"rules": rule_values(chosen)}))
        return 0
    from adaptool.reports.layout import coloured, plain

    lines = listed(chosen, console.width) if code is None else explained(chosen, console.width)
    click.echo(coloured(lines) if console.paints else plain(lines))
    return 0
