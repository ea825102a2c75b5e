"""A check as Markdown for a pull request's comment: the adapters in a table, what is wrong below it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from adaptool.reports.check_words import asked, happened, outcome, place, total, versions
from adaptool.reports.layout import elided
from adaptool.reports.markdown import MARKS, code, escaped
from adaptool.versioning.gate.check_result import AdapterCheck, Check

MARKER = "<!-- adaptool version check -->"
"""The first line, by which a bot finds the comment it wrote before and updates it."""

LIMIT = 65_536
"""Characters of a comment, by GitHub."""
NAME, TEXT = 120, 500
"""Characters of a name, and of a sentence."""
FOLDED = 12
"""Rows from which on a table is folded."""


def check_markdown(check: Check) -> str:
    """A comment of at most 65,536 characters: rows that do not fit are counted."""
    rows = max(len(check.adapters), 1)
    while True:
        text = "\n".join(_lines(check, rows))
        if len(text) <= LIMIT or rows <= 1:
            return text if len(text) <= LIMIT else f"{text[: LIMIT - 2].rsplit(chr(10), 1)[0]}\n"
        rows = rows * 2 // 3


def _lines(check: Check, rows: int) -> Iterator[str]:
    icon = {0: "✅", 1: "❌", 3: "⚠️"}[check.exit_code]
    against = f" against {code(check.against)}" if check.against else ""
    yield MARKER
    yield f"## {icon} adaptool version check"
    yield ""
    yield f"{escaped(check.at)}{against}: **{total(check)}**"
    yield ""
    told = {id(adapter) for adapter in check.adapters if adapter.state != "unchanged" or adapter.findings}
    shown = [adapter for adapter in check.adapters if id(adapter) in told]
    if shown:
        yield from _folded(list(_table(shown[:rows], len(shown) - rows)), len(shown), "adapters")
    if unchanged := [adapter for adapter in check.adapters if id(adapter) not in told]:
        yield f"<details><summary>{len(unchanged)} unchanged</summary>"
        yield ""
        yield from _table(unchanged[:rows], len(unchanged) - rows)
        yield ""
        yield "</details>"
        yield ""
    said = [line for adapter in shown[:rows] for line in _findings(adapter)]
    if said:
        yield from said
        yield ""
    for failure in check.failures:
        yield f"- ⚠️ {escaped(elided(failure.message, TEXT))}"
    for note in check.notes:
        yield f"- note: {escaped(elided(note, TEXT))}"


def _folded(lines: Sequence[str], many: int, what: str) -> Iterator[str]:
    if many < FOLDED:
        yield from lines
        yield ""
        return
    yield f"<details><summary>{many} {what}</summary>"
    yield ""
    yield from lines
    yield ""
    yield "</details>"
    yield ""


def _table(adapters: Sequence[AdapterCheck], more: int) -> Iterator[str]:
    yield "| | adapter | version | change | asks for | verdict |"
    yield "|---|---|---|---|---|---|"
    for adapter in adapters:
        icon = {"ok": "✅", "findings": "❌", "unchecked": "⚠️"}[adapter.verdict]
        cells = (icon, code(elided(adapter.path, NAME)), escaped(elided(versions(adapter), NAME)),
                 escaped(elided(happened(adapter), NAME)), asked(adapter), outcome(adapter))  # fmt: skip
        yield f"| {' | '.join(cells)} |"
    if more > 0:
        yield f"| | and {more} more | | | | |"


def _findings(adapter: AdapterCheck) -> Iterator[str]:
    for one in adapter.findings:
        fix = f"<br>{code(elided(one.fix, TEXT))}" if one.fix else ""
        where = code(elided(place(adapter, one), NAME))
        yield f"- {MARKS[one.severity]} **{one.code}** {where}: {escaped(elided(one.message, TEXT))}{fix}"
    for unchecked in adapter.unchecked:
        where = code(elided(adapter.path, NAME))
        yield f"- ⚠️ **{unchecked.code}** {where} could not be checked: {escaped(elided(unchecked.reason, TEXT))}"
