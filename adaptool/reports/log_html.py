"""A log as one offline page: the drift as lines over the versions, and every commit in a table."""

from __future__ import annotations

from adaptool import __version__
from adaptool.reports.figures import percent
from adaptool.reports.html import Cell, Heading, Markup, facts, page, pill, section, table, tag, tiles
from adaptool.reports.layout import elided
from adaptool.reports.line_chart import Series, line_chart
from adaptool.reports.log_words import codes, drifted, happened, step, version
from adaptool.versioning.log.log_result import Entry, Log

NAME, SENTENCE = 120, 1000
"""Characters of a name, and of a sentence."""

HEADINGS = (
    Heading("version"), Heading("date"), Heading("commit"), Heading("author"), Heading("subject"), Heading("change"),
    Heading("step", note="what the change asked of the version, and what it got where that is less"),
    Heading("drift", number=True, note="‖ΔW′ − ΔW‖ / ‖ΔW‖ from the entry before"),
    Heading("from first", number=True, note="the same from the first entry"), Heading("findings"),
)  # fmt: skip

HOW_TO_READ = (
    (
        "drift",
        "‖ΔW′ − ΔW‖ / ‖ΔW‖ of all low-rank updates as one vector: 0 % is the same adapter, however it was saved.",
    ),
    ("step", "major, minor or patch: what the change asks of a semantic version, and what it got where that differs."),
    ("findings", "what adaptool version check finds at the commit, against its first parent."),
)


def log_html(log: Log) -> str:
    """The page of a log."""
    name = elided(log.name, NAME)
    return page(
        f"{name}: history",
        tag("p", "adaptool version log", class_="note"),
        tag("h1", name),
        tag("p", f"{elided(log.path, NAME)}, history of {elided(log.revision, NAME)}", class_="lead"),
        _figures(log),
        _chart(log),
        section(
            "Commits", table(HEADINGS, [_row(entry) for entry in log.entries], caption="Commits, the newest first")
        ),
        [tag("p", note, class_="note") for note in log.notes],
        section("How to read this", facts(HOW_TO_READ)),
        tag("footer", tag("p", f"adaptool {__version__}. --json has every figure.", class_="note")),
    )


def _figures(log: Log) -> Markup:
    newest = log.entries[0]
    faulty = sum(entry.verdict == "findings" for entry in log.entries)
    versions = {entry.version_after for entry in log.entries if entry.version_after is not None}
    return tiles([
        ("version", version(newest), newest.date[:10]),
        ("versions", str(len(versions)), f"in {len(log.entries)} commits"),
        ("from the first", percent(newest.drift_first) or "unknown", "of ‖ΔW‖"),
        ("commits with findings", str(faulty), ""),
    ])  # fmt: skip


def _chart(log: Log) -> Markup | None:
    old = log.entries[::-1]
    if not any(entry.drift == "measured" for entry in old):
        return None
    labels = [version(entry) for entry in old]
    titles = tuple(f"{version(e)}, {e.date[:10]}, {e.commit[:10]}: {elided(happened(e), NAME)}" for e in old)
    series = [
        Series("from the first", tuple(entry.drift_first for entry in old), titles),
        Series("from the one before", tuple(entry.drift_previous for entry in old), titles),
    ]
    drawn = line_chart(labels, series, caption="Drift of ΔW, the oldest first", shown=lambda value: percent(value))
    return section("Drift", drawn)


def _row(entry: Entry) -> list[Cell | str]:
    found = codes(entry)
    style = {"ok": "good", "findings": "bad", "unchecked": "warn"}[entry.verdict]
    style = "warn" if style == "good" and found else style
    told = "\n".join([*(f"{one.code} {one.message}" for one in entry.findings),
                      *(f"unchecked: {one.code} {one.reason}" for one in entry.unchecked)])  # fmt: skip
    why = elided("; ".join(entry.reasons), SENTENCE)
    return [
        Cell([version(entry), [" ", pill(", ".join(entry.tags))] if entry.tags else None]), entry.date[:10],
        Cell(tag("code", entry.commit[:10]), title=entry.commit), elided(entry.author, NAME),
        elided(entry.subject, NAME), Cell(elided(happened(entry), NAME), title=why),
        step(entry), Cell(drifted(entry, entry.drift_previous), entry.drift_previous),
        Cell(drifted(entry, entry.drift_first), entry.drift_first),
        Cell(pill(found or "ok", style), title=elided(told, SENTENCE)),
    ]  # fmt: skip
