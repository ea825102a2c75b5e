"""The rules for people: a list, an explanation, and the documentation's page; all of it from the rules themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from adaptool.reports.layout import BLANK, Column, Line, Span, heading, table, wrap
from adaptool.reports.validate_text import STYLES
from adaptool.rules.rule import FAMILIES, Rule


def listed(rules: Sequence[Rule], width: int) -> list[Line]:
    """Every rule on a line, family by family."""
    lines: list[Line] = []
    columns = [Column("code"), Column("severity", keep=1), Column("what", elastic=True)]
    for family, group in groupby(rules, key=lambda rule: rule.family):
        rows: list[list[str] | Line] = [[rule.code, _level(rule), rule.title] for rule in group]
        lines += [heading(FAMILIES[family]), *table(columns, rows, width)[1:], BLANK]
    return lines[:-1]


def explained(rules: Sequence[Rule], width: int) -> list[Line]:
    """Title, severity, why and what to do."""
    lines: list[Line] = []
    for rule in rules:
        lines += [*_explained(rule, width), BLANK]
    return lines[:-1]


def _explained(rule: Rule, width: int) -> Iterator[Line]:
    yield (Span(f"{rule.code}  ", "title"), Span(rule.title, "title"), Span(f"  {_level(rule)}", STYLES[rule.severity]))
    for paragraph in rule.why.split("\n\n"):
        yield BLANK
        yield from ((Span(f"  {line}"),) for line in wrap(" ".join(paragraph.split()), width - 2))
    yield BLANK
    for number, line in enumerate(wrap(rule.fix, width - 7)):
        yield (Span("  fix  " if number == 0 else " " * 7, "good"), Span(line))
    if when := _when(rule):
        yield from ((Span(f"  {line}", "dim"),) for line in wrap(when, width - 2))


def _level(rule: Rule) -> str:
    return rule.severity if rule.default else f"{rule.severity} (off)"


def _when(rule: Rule) -> str:
    """When a rule runs, where it does not always."""
    said = []
    if rule.consumer is not None:
        said.append(f"Runs under --for {rule.consumer}.")
    elif not rule.default:
        said.append(f"Off by default: --select {rule.code}.")
    if "base" in rule.needs:
        said.append("Needs --base.")
    if rule.push is not None:
        said.append(f"Before a push: {rule.push}.")
    return " ".join(said)


def rule_values(rules: Sequence[Rule]) -> list[dict[str, Any]]:
    """The rules as JSON has them."""
    names = ("code", "severity", "title", "why", "fix", "needs", "default", "consumer", "push")
    return [{name: getattr(rule, name) for name in names} for rule in rules]


def rules_page(rules: Sequence[Rule]) -> str:
    """docs/rules.md."""
    parts = [
        "# The rules of `adaptool validate`\n",
        "Generated from the rules by `make docs`; `adaptool rules CODE` prints the same. Codes are stable.\n",
    ]
    for family, group in groupby(rules, key=lambda rule: rule.family):
        parts.append(f"## {FAMILIES[family]}\n")
        for rule in group:
            when = _when(rule)
            parts.append(f"### {rule.code}: {rule.title}\n\n*{rule.severity}*{f' · {when}' if when else ''}\n")
            parts.append(f"{rule.why}\n\n**Fix:** {rule.fix}\n")
    return "\n".join(parts)
