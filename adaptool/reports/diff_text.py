"""``diff`` for people: what happened in a word and a sentence, then what changed, the most of it first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from adaptool.comparing.result import Comparison, ConfigChange, Group, Side
from adaptool.reports.diff_words import (
    NAME,
    base,
    change_of,
    cosine,
    far,
    group_distance,
    immaterial,
    kind,
    largest_angle,
    largest_tensors,
    material,
    names,
    norm,
    norms,
    one_stack,
    owed,
    ranks,
    shapes,
    short_name,
    states,
    together,
    tone,
    totals,
    weight,
)
from adaptool.reports.figures import count, listed, number
from adaptool.reports.layout import (
    BLANK,
    INDENT,
    Column,
    Line,
    Span,
    cells,
    elided,
    fact,
    heading,
    table,
    visible,
    wrap,
)
from adaptool.reports.sparkline import sparkline

TOP = 10
"""Modules, and tensors, in their tables."""
FEW = 4
"""Names before the rest is counted."""
VALUE = 40
"""Columns of a field's value; -v shows all."""
SPARK, WIDE_SPARK, WIDE = 16, 32, 84
"""Columns of a sparkline, also where WIDE columns are left beside the names."""

SIDES = (
    Column("", keep=10),
    Column("NAME", elastic=True),
    Column("VERSION", keep=8),
    Column("TYPE", keep=7),
    Column("RANK", right=True, keep=6),
    Column("WEIGHTS", keep=3),
    Column("BASE", elastic=True, keep=5),
)

CONFIG = (Column("CONFIG"), Column(""), Column("EFFECT"))

PROJECTIONS = (
    Column("BY PROJECTION", elastic=True),
    Column("CHANGED", right=True, keep=4),
    Column("‖ΔW‖", right=True, keep=5),
    Column("", keep=5),
    Column("DISTANCE", right=True),
    Column("COSINE", right=True, keep=7),
    Column("BY LAYER", keep=6, style="spark"),
)

MODULES = (
    Column("", elastic=True),
    Column("‖ΔW‖", keep=6),
    Column("DISTANCE", right=True),
    Column("COSINE", right=True, keep=7),
    Column("ANGLE", right=True, keep=5),
    Column("RANK", right=True, keep=4),
)

TENSORS = (
    Column("", elastic=True),
    Column("TYPE AND SHAPE", keep=5),
    Column("DISTANCE", right=True),
    Column("COSINE", right=True, keep=6),
)


def diff_report(
    comparison: Comparison, width: int, *, top: int = TOP, verbose: bool = False, quiet: bool = False
) -> list[Line]:
    """A comparison in lines of at most ``width`` columns; ``top`` modules are named, ``quiet`` keeps the verdict."""
    lines = [*_title(comparison, width), *_sentence(comparison.because, width)]
    if quiet:
        return lines
    if not comparison.equal or verbose:
        lines += [BLANK, *_sides(comparison, width)]
    parts = [
        [*_config(comparison, width, verbose=verbose)],
        [*_totals(comparison, width)],
        _projections(comparison, width),
        _modules(comparison, width, top),
        [*_tensors(comparison, width, top)],
        [*_closing(comparison, width)],
    ]
    shown = [part for part in parts if part]
    if comparison.equal and not verbose:
        return [*lines, *(line for part in shown for line in part)]
    return [*lines, *(line for part in shown for line in (BLANK, *part))]


def _title(comparison: Comparison, width: int) -> Iterator[Line]:
    verdict = Span(comparison.verdict, tone(comparison))
    told = [visible(name) for name in names(comparison)]
    room = width - len(comparison.verdict) - 2
    if sum(map(cells, told)) + 3 > room:
        half = max(8, (width - len(INDENT) - 3) // 2)
        told = [elided(name, half) for name in told]
    arrow = f"{told[0]} → {told[1]}"
    if cells(arrow) <= room:
        yield (Span(arrow, "title"), Span("  "), verdict)
    else:
        yield (verdict,)
        yield (Span(INDENT), Span(arrow, "title"))


def _sentence(text: str, width: int) -> list[Line]:
    return [(Span(INDENT), Span(line)) for line in wrap(text, width - len(INDENT))]


def _sides(comparison: Comparison, width: int) -> list[Line]:
    rows = [_side(letter, side) for letter, side in (("A", comparison.before), ("B", comparison.after))]
    return table(SIDES, rows, width)


def _side(letter: str, side: Side) -> list[str]:
    return [letter, side.name or side.given, side.version or "", kind(side), side.rank, weight(side), base(side)]


def _config(comparison: Comparison, width: int, *, verbose: bool) -> Iterator[Line]:
    shown = [*material(comparison), *(immaterial(comparison) if verbose else ())]
    if shown:
        yield from _fields(shown, width, None if verbose else VALUE)
    if (rest := immaterial(comparison)) and not verbose:
        fields = listed([change.field for change in rest], FEW)
        many = "1 field differs and changes" if len(rest) == 1 else f"{len(rest)} fields differ and change"
        yield from _dim(f"{many} nothing: {fields}", width)


def _fields(changes: Sequence[ConfigChange], width: int, most: int | None) -> list[Line]:
    """A table where it fits, and else each field with its effect beneath."""
    rows = [[change.field, change_of(change, most), change.effect] for change in changes]
    fitting = table(CONFIG, rows, 1 << 20)
    if max(cells("".join(span.text for span in line).rstrip()) for line in fitting) <= width:
        return fitting
    lines: list[Line] = [heading("CONFIG")]
    for field, change, effect in rows:
        told = wrap(f"{elided(field, NAME)}  {change}", width - 4)
        lines += [(Span(INDENT if i == 0 else INDENT * 2), Span(line)) for i, line in enumerate(told)]
        lines += [(Span(INDENT * 2), Span(line, "dim")) for line in wrap(effect, width - 4)]
    return lines


def _dim(text: str, width: int) -> list[Line]:
    return [(Span(INDENT), Span(line, "dim")) for line in wrap(text, width - len(INDENT))]


def _totals(comparison: Comparison, width: int) -> Iterator[Line]:
    if comparison.equal:
        return
    if comparison.norm_before or comparison.norm_after:
        yield from fact(norm(comparison), totals(comparison), width)
    if any(module.state != "same" for module in comparison.modules):
        yield from fact("over", states(comparison.modules, "module"), width)
    for state in ("added", "removed"):
        if found := together([m.place for m in comparison.modules if m.state == state], one_stack(comparison)):
            yield from fact(state, listed(found, FEW), width, "warn")


def _projections(comparison: Comparison, width: int) -> list[Line]:
    moved = [group for group in comparison.projections if group.changed]
    if comparison.equal or not any(group.norm_before or group.norm_after for group in moved):
        return []
    roomy = width >= WIDE + max(cells(group.name) for group in moved)
    columns = [replace(one, title=norm(comparison)) if one.title == "‖ΔW‖" else one for one in PROJECTIONS]
    lines = table(columns, [_group(group, WIDE_SPARK if roomy else SPARK) for group in moved], width)
    if still := [elided(group.name, NAME) for group in comparison.projections if not group.changed]:
        lines += _dim(f"the same: {listed(still, FEW)}", width)
    return lines


def _group(group: Group, spark: int) -> list[str]:
    known = [value for value in group.by_layer if value is not None]
    changed = count(group.changed) if group.changed == group.modules else f"{group.changed} of {group.modules}"
    return [
        group.name, changed, number(group.norm_before), f"→ {number(group.norm_after)}",
        group_distance(group), cosine(group.cosine),
        sparkline(group.by_layer, spark) if len(known) > 1 else "",
    ]  # fmt: skip


def _modules(comparison: Comparison, width: int, top: int) -> list[Line]:
    moved = [module for module in comparison.largest if module.state == "changed"]
    shown = moved[:top]
    if comparison.equal or not any(module.distance is not None for module in moved) or not shown:
        return []
    title = "MODULES" if len(shown) == len(moved) else f"FURTHEST {len(shown)} OF {count(len(moved))}"
    stack = one_stack(comparison)
    rows = [
        [short_name(m.module, m.place, stack), norms(m), far(m), cosine(m.cosine), largest_angle(m), ranks(m)]
        for m in shown
    ]
    return table((Column(title, elastic=True), *MODULES[1:]), rows, width)


def _tensors(comparison: Comparison, width: int, top: int) -> Iterator[Line]:
    if not comparison.tensors:
        return
    found = largest_tensors(comparison)
    shown = found[:top]
    if shown:
        title = "OTHER TENSORS" if comparison.modules else "TENSORS"
        stack = one_stack(comparison)
        rows = [[short_name(t.name, t.place, stack), shapes(t), far(t), cosine(t.cosine)] for t in shown]
        yield from table((Column(title, elastic=True), *TENSORS[1:]), rows, width)
    yield from _dim(states(found, "tensor", comparison.tensors_same), width)


def _closing(comparison: Comparison, width: int) -> Iterator[Line]:
    for note in comparison.notes:
        yield from fact("note", note, width)
    if not (comparison.equal and comparison.level == "none"):
        yield from fact("version", f"asks for {owed(comparison)}", width)
