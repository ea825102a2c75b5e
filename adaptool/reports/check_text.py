"""``version check`` for people: a table of the adapters, then each finding with the command that mends it."""

from __future__ import annotations

from collections.abc import Iterator

from adaptool.reports.check_words import asked, happened, outcome, place, total, versions
from adaptool.reports.layout import BLANK, Column, Line, Span, Style, table, visible, wrap
from adaptool.rules.finding import Severity
from adaptool.versioning.gate.check_result import AdapterCheck, Check
from adaptool.versioning.gate.findings import CODES, Finding

STYLES: dict[Severity, Style] = {"error": "bad", "warning": "warn", "info": "dim"}
WORDS: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "note"}
COLUMNS = (
    Column("adapter", elastic=True), Column("version", keep=8), Column("change", keep=5), Column("asks for", keep=4),
    Column("verdict", keep=9),
)  # fmt: skip
MARGIN = 10
FEW = 40
"""Adapters that are all listed, also those nobody changed."""


def check_report(check: Check, width: int, *, verbose: bool = False, quiet: bool = False) -> list[Line]:
    """The lines of a check; of many adapters those nobody changed are only counted; ``quiet`` keeps what fails."""
    everyone = verbose or len(check.adapters) <= FEW
    shown = [adapter for adapter in check.adapters if _told(adapter, everyone=everyone, quiet=quiet)]
    lines: list[Line] = []
    if shown:
        rows = [[a.path, versions(a), happened(a), asked(a), outcome(a)] for a in shown]
        lines += [*table(COLUMNS, rows, width), BLANK]
    for adapter in shown:
        lines += _adapter(adapter, width, verbose=verbose, quiet=quiet)
    style: Style = "good" if check.exit_code == 0 else "bad"
    if not quiet:
        against = f" against {visible(check.against)}" if check.against else ""
        lines.append((Span(f"{visible(check.at)}{against}: "), Span(total(check), style)))
    elif lines and lines[-1] == BLANK:
        lines.pop()
    return lines


def _told(adapter: AdapterCheck, *, everyone: bool, quiet: bool) -> bool:
    if quiet:
        return adapter.verdict != "ok"
    return everyone or adapter.state != "unchanged" or bool(adapter.findings) or adapter.verdict != "ok"


def _adapter(adapter: AdapterCheck, width: int, *, verbose: bool, quiet: bool) -> Iterator[Line]:
    findings = [one for one in adapter.findings if not (quiet and one.severity == "info")]
    notes = adapter.notes if verbose else ()
    if not findings and not adapter.unchecked and not notes:
        return
    yield (Span(visible(adapter.path), "title"), Span(f"  {visible(adapter.version_after or '')}", "dim"))
    for finding in findings:
        yield from _finding(adapter, finding, width)
        for why in (CODES[finding.code].why,) if verbose else ():
            yield from _hanging("", "", why, width, MARGIN, "dim")
    for unchecked in adapter.unchecked:
        yield from _hanging("  unchecked", "warn", f"{unchecked.code}  {unchecked.reason}", width, 13)
    for reason in adapter.reasons if verbose else ():
        yield from _hanging("  asks", "dim", f"{adapter.level}: {reason}", width, MARGIN)
    for note in notes:
        yield from _hanging("  note", "dim", note, width, MARGIN)
    yield BLANK


def _finding(adapter: AdapterCheck, finding: Finding, width: int) -> Iterator[Line]:
    word, style = WORDS[finding.severity], STYLES[finding.severity]
    yield from _hanging(f"  {word}", style, f"{finding.code}  {finding.message}", width, MARGIN)
    yield from _hanging("", "", place(adapter, finding), width, MARGIN, "dim")
    if finding.fix:
        yield from _hanging(" " * MARGIN + "→ ", "good", finding.fix, width, MARGIN + 2)


def _hanging(label: str, style: Style, text: str, width: int, margin: int, text_style: Style = "") -> Iterator[Line]:
    """``label`` and the text beside it, wrapped under itself."""
    for number, line in enumerate(wrap(" ".join(text.split()), width - margin)):
        yield (Span((label if number == 0 else "").ljust(margin), style), Span(line, text_style))
