"""A validation as Markdown: for a job's summary, a pull request's comment, a merge request's note."""

from __future__ import annotations

from collections.abc import Iterator

from adaptool.reports.findings import counts, place_of
from adaptool.reports.layout import visible
from adaptool.rules.engine import AdapterReport, Validation

MARKS = {"error": "❌ error", "warning": "⚠️ warning", "info": "note"}


def markdown(validation: Validation) -> str:
    """A section for every adapter with something to say, and a line for the others."""
    lines = ["## adaptool validate", ""]
    for report in validation.results:
        lines += _adapter(report)
    for failure in validation.failures:
        lines += [f"- ❌ {_text(failure.message)}: could not be checked", ""]
    return "\n".join(lines).rstrip()


def _adapter(report: AdapterReport) -> Iterator[str]:
    verdict = {"ok": "✅ ok", "findings": "❌", "unchecked": "❌ could not be checked"}[report.verdict]
    found = counts(list(report.findings))
    yield f"### {_code(report.path)} {verdict}{f' {found}' if found else ''}"
    yield ""
    if report.findings:
        yield "| | rule | what | where | fix |"
        yield "|---|---|---|---|---|"
    for finding in report.findings:
        cells = (MARKS[finding.severity], finding.code, _text(finding.message), _code(place_of(finding)),
                 _text(finding.fix))  # fmt: skip
        yield f"| {' | '.join(cells)} |"
    for unchecked in report.unchecked:
        yield f"- {unchecked.code} could not be checked: {_text(unchecked.reason)}"
    if report.suppressed:
        yield f"- {len(report.suppressed)} waived"
    if report.findings or report.unchecked or report.suppressed:
        yield ""


def _text(text: str) -> str:
    """Text that Markdown leaves alone: no markup, no HTML, no mention of a user, no break out of a cell."""
    flat = visible(" ".join(text.split()))
    return "".join(f"&#{ord(c)};" if c in "<>&@|#" else f"\\{c}" if c in "\\`*_[]!" else c for c in flat)


def _code(text: str) -> str:
    """Text in a code span that it cannot leave."""
    plain = visible(text).replace("`", "'").replace("|", "\\|")
    return f"`{plain}`" if plain else ""
