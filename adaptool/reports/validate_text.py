"""``validate`` for people: every adapter, its findings gravest first, each ending in what to do."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from adaptool.reports.findings import counts, everything, place_of
from adaptool.reports.layout import BLANK, Line, Span, Style, visible, wrap
from adaptool.rules.engine import AdapterReport, Validation
from adaptool.rules.finding import Finding, Severity
from adaptool.summary.settings import title

STYLES: dict[Severity, Style] = {"error": "bad", "warning": "warn", "info": "dim"}
WORDS: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "note"}
MARGIN = 10
"""Columns of the severity, before a finding's text."""


def validation_report(validation: Validation, width: int, *, verbose: bool = False, quiet: bool = False) -> list[Line]:
    """The lines of a validation; ``quiet`` keeps what fails, ``verbose`` adds why each rule is there."""
    lines: list[Line] = []
    for report in validation.results:
        if quiet and report.verdict == "ok":
            continue
        lines += [*_adapter(report, width, verbose=verbose, quiet=quiet), BLANK]
    if len(validation.results) > 1:
        return [*lines, _total(validation)]
    return lines[:-1]


def _adapter(report: AdapterReport, width: int, *, verbose: bool, quiet: bool) -> Iterator[Line]:
    yield _head(report)
    for finding in report.findings:
        if not (quiet and finding.severity == "info"):
            yield from _finding(finding, width, verbose=verbose)
    for reason, group in groupby(sorted(report.unchecked, key=lambda u: u.reason), key=lambda u: u.reason):
        codes = [unchecked.code for unchecked in group]
        named = codes[0] if len(codes) == 1 else f"{codes[0]} and {len(codes) - 1} more"
        yield from _hanging("  unchecked", "warn", f"{named}: {reason}", width, 13)
    if report.suppressed:
        by = sorted({f"{suppressed.by}" for suppressed in report.suppressed})
        yield (Span(f"  {len(report.suppressed)} waived by the {' and the '.join(by)}", "dim"),)
        if verbose:
            for waived in report.suppressed:
                yield from _hanging("", "", f"{waived.finding.code}  {waived.reason}", width, MARGIN)


def _head(report: AdapterReport) -> Line:
    kind = title(report.peft_type) if report.peft_type else "no PEFT type"
    found = counts(list(report.findings))
    verdict: tuple[str, Style] = {
        "ok": (f"ok{f' ({found})' if found else ''}", "good"),
        "findings": (found, "bad"),
        "unchecked": ("could not be checked", "bad"),
    }[report.verdict]  # type: ignore[assignment]
    return (Span(visible(report.path), "title"), Span(f"  {visible(kind)}  ", "dim"), Span(*verdict))


def _finding(finding: Finding, width: int, *, verbose: bool) -> Iterator[Line]:
    word = WORDS[finding.severity]
    lines = wrap(f"{finding.code}  {finding.message}", width - MARGIN)
    yield (Span(f"  {word}".ljust(MARGIN), STYLES[finding.severity]), Span(lines[0]))
    yield from ((Span(" " * MARGIN), Span(line)) for line in lines[1:])
    if place := place_of(finding):
        yield from _hanging("", "", place, width, MARGIN, "dim")
    if verbose:
        from adaptool.rules.catalogue import RULES

        yield from _hanging("", "", RULES[finding.code].why, width, MARGIN, "dim")
    yield from _hanging(" " * MARGIN + "→ ", "good", finding.fix, width, MARGIN + 2)


def _hanging(label: str, style: Style, text: str, width: int, margin: int, text_style: Style = "") -> Iterator[Line]:
    """``label`` and the text beside it, wrapped under itself."""
    for number, line in enumerate(wrap(" ".join(text.split()), width - margin)):
        yield (Span((label if number == 0 else "").ljust(margin), style), Span(line, text_style))


def _total(validation: Validation) -> Line:
    adapters = len(validation.results)
    found = counts([finding for _, finding in everything(validation)]) or "nothing found"
    unchecked = sum(report.verdict == "unchecked" for report in validation.results)
    tail = f", {unchecked} could not be checked" if unchecked else ""
    style: Style = "good" if validation.exit_code == 0 else "bad"
    return (Span(f"{adapters} adapters: ", ""), Span(f"{found}{tail}", style))
