"""``version log`` for people: a line a commit, the newest first, and how far ΔW went as sparklines."""

from __future__ import annotations

from collections.abc import Iterator

from adaptool.reports.layout import BLANK, Column, Line, Span, table, visible, wrap
from adaptool.reports.log_words import codes, course, drifted, happened, step, version
from adaptool.reports.sparkline import sparkline
from adaptool.versioning.log.log_result import Entry, Log

COLUMNS = (
    Column("version", keep=9), Column("tag", elastic=True, keep=1), Column("date", keep=7), Column("commit", keep=8),
    Column("author", elastic=True, keep=4), Column("change", elastic=True, keep=7), Column("step", keep=3),
    Column("drift", right=True, keep=6), Column("from first", right=True, keep=2), Column("findings", keep=8),
)  # fmt: skip
SPARK = 40
MARGIN = 4


def log_report(log: Log, width: int, *, verbose: bool = False) -> list[Line]:
    """The lines of a log; ``verbose`` adds subjects and what was found."""
    lines: list[Line] = [(Span(visible(log.name), "title"), Span(f"  {visible(log.path)}, {_many(log)}", "dim")), BLANK]
    rows = [
        [version(entry), ", ".join(entry.tags), entry.date[:10], entry.commit[:8], entry.author, happened(entry),
         step(entry), drifted(entry, entry.drift_previous), drifted(entry, entry.drift_first), codes(entry)]
        for entry in log.entries
    ]  # fmt: skip
    drawn = table(COLUMNS, rows, width)
    lines.append(drawn[0])
    for entry, line in zip(log.entries, drawn[1:], strict=True):
        lines.append(line)
        if verbose:
            lines += _details(entry, width)
    lines += _sparks(log)
    return lines


def _details(entry: Entry, width: int) -> Iterator[Line]:
    texts = [entry.subject, *(f"{one.code} {one.message}" for one in entry.findings),
             *(f"unchecked: {one.code} {one.reason}" for one in entry.unchecked)]  # fmt: skip
    for text in texts:
        for line in wrap(text, width - MARGIN):
            yield (Span(" " * MARGIN), Span(line, "dim"))


def _sparks(log: Log) -> Iterator[Line]:
    previous, first = course(log)
    if not any(previous) and not any(first):
        return
    yield BLANK
    for label, values in (("drift", previous), ("from first", first)):
        yield (
            Span(f"  {label.ljust(12)}", "label"),
            Span(sparkline(values, SPARK), "spark"),
            Span("  oldest → newest", "dim"),
        )


def _many(log: Log) -> str:
    return f"{len(log.entries)} commit{'s' * (len(log.entries) != 1)} of {visible(log.revision)}"
