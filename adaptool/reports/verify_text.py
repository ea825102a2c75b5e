"""A verification for people: the verdict in a sentence, what else is wrong, and the tensors furthest off."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from adaptool.reports.figures import count, listed, percent, plural
from adaptool.reports.layout import BLANK, Column, Line, Span, Style, fact, heading, table, visible, wrap

if TYPE_CHECKING:
    from adaptool.parity.gguf_report import GgufVerification
    from adaptool.parity.verify import TensorVerdict, Verification

WORST = 10
"""Rows of the table."""

STYLES: dict[str, Style] = {"bit-equal": "good", "within one rounding": "good", "wrong": "bad"}

COLUMNS = (
    Column("tensor", elastic=True),
    Column("verdict"),
    Column("differ", right=True, keep=5),
    Column("ulp", right=True, keep=4),
    Column("scale", right=True, keep=6),
    Column("finding", keep=7),
)


def verification_report(found: Verification, name: str, width: int) -> list[Line]:
    """One verification, in lines of at most ``width`` columns; ``name`` is what was checked."""
    lines = opening(found, name, STYLES[found.verdict], width)
    worst = found.worst(WORST)
    if worst:
        times = Counter(tensor.name for tensor in found.tensors)
        rows = [_row(tensor, tensor.name if times[tensor.name] == 1 else tensor.merge_name) for tensor in worst]
        lines += [BLANK, heading(worst_title(len(worst), unequal(found))), *table(COLUMNS, rows, width)]
    return lines


def opening(found: Verification | GgufVerification, name: str, style: Style, width: int) -> list[Line]:
    """What every verification begins with: verdict, sentence, what else is wrong, how many tensors are what, notes."""
    lines: list[Line] = [(Span(visible(name), "title"), Span("  "), Span(found.verdict, style)), BLANK]
    lines += [(Span(f"  {text}"),) for text in wrap(found.sentence, width - 2)]
    lines += [BLANK]
    for defect in found.defects[1:]:
        lines += fact("also", defect.sentence, width, "warn")
    shown = ", ".join(f"{count(number)} {verdict}" for verdict, number in found.counts.items() if number)
    lines += fact("tensors", f"{shown or 'none'} of {count(len(found.tensors))}", width)
    for label, names in (("missing", found.missing), ("unexpected", found.unexpected)):
        if names:
            lines += fact(label, listed(names, 4), width, "warn")
    for note in found.notes:
        lines += fact("note", note, width, "dim")
    return lines


def unequal(found: Verification | GgufVerification) -> int:
    """How many tensors are not bit-equal."""
    return len(found.tensors) - found.counts["bit-equal"]


def worst_title(shown: int, off: int) -> str:
    """What stands over the worst tensors: how many there are, where not all are shown."""
    return f"FURTHEST OFF: {shown} of {plural(off, 'tensor')}" if shown < off else "FURTHEST OFF"


def _row(tensor: TensorVerdict, name: str) -> list[str]:
    """A row; a checkpoint's tensor that holds several of the merge's goes by their names."""
    finding = tensor.finding
    short = {"within one rounding": "rounding"}.get(tensor.verdict, tensor.verdict)
    scale = f"{finding.k:.3g}×" if finding is not None and finding.k is not None else ""
    share = tensor.unequal / tensor.elements if tensor.elements else 0.0
    reason = tensor.equals[0].removeprefix("a base ") if tensor.equals else "" if finding is None else finding.kind
    return [name, short, percent(share), _ulps(tensor.ulps), scale, reason]


def _ulps(value: float) -> str:
    if not math.isfinite(value):
        return "∞"
    return "" if value == 0 else f"{value:.1f}" if value < 100 else f"{value:.0e}"
