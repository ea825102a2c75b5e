"""A validation as Markdown: for a job's summary, a pull request's comment, a merge request's note."""

from __future__ import annotations

import re
from collections.abc import Iterator

from adaptool.reports.findings import counts, place_of
from adaptool.reports.layout import visible
from adaptool.rules.engine import AdapterReport, Validation

LINKING = re.compile(r"(?<=:)/(?=/)|(?<=www)\.", re.IGNORECASE)
"""What GitHub makes a link of without being asked: ``http://``, ``www.``."""

MARKS = {"error": "❌ error", "warning": "⚠️ warning", "info": "note"}


def markdown(validation: Validation) -> str:
    """A section for every adapter with something to say, and a line for the others."""
    lines = ["## adaptool validate", ""]
    for report in validation.results:
        lines += _adapter(report)
    for failure in validation.failures:
        lines += [f"- ❌ {escaped(failure.message)}: could not be checked", ""]
    return "\n".join(lines).rstrip()


def _adapter(report: AdapterReport) -> Iterator[str]:
    verdict = {"ok": "✅ ok", "findings": "❌", "unchecked": "❌ could not be checked"}[report.verdict]
    found = counts(list(report.findings))
    yield f"### {code(report.path)} {verdict}{f' {found}' if found else ''}"
    yield ""
    if report.findings:
        yield "| | rule | what | where | fix |"
        yield "|---|---|---|---|---|"
    for finding in report.findings:
        cells = (MARKS[finding.severity], finding.code, escaped(finding.message), code(place_of(finding)),
                 escaped(finding.fix))  # fmt: skip
        yield f"| {' | '.join(cells)} |"
    for unchecked in report.unchecked:
        yield f"- {unchecked.code} could not be checked: {escaped(unchecked.reason)}"
    if report.suppressed:
        yield f"- {len(report.suppressed)} waived"
    if report.findings or report.unchecked or report.suppressed:
        yield ""


def escaped(text: str) -> str:
    """Text that Markdown leaves alone: no markup, no HTML, no link, no mention of a user, no break out of a cell."""
    flat = visible(" ".join(text.split()))
    plain = "".join(f"&#{ord(c)};" if c in "<>&@|#~`" else f"\\{c}" if c in "\\*_[]!" else c for c in flat)
    return LINKING.sub(lambda found: f"&#{ord(found[0])};", plain)


def code(text: str) -> str:
    """Text in a code span that it cannot leave; what a table's cell or the span would end at makes it HTML's."""
    plain = visible(text)
    if "`" in plain or "|" in plain:
        return f"<code>{escaped(plain)}</code>"
    return f"`{plain}`" if plain.strip() else ""
