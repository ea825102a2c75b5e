"""The tables of a comparison's page: by projection, every module with its principal angles, and the other tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

from adaptool.comparing.result import Comparison, ModuleChange, Place, TensorChange
from adaptool.reports.diff_maps import MEANINGS, Together, layered
from adaptool.reports.diff_words import (
    both,
    cosine,
    degrees,
    far,
    figure,
    group_distance,
    largest_tensors,
    norm,
    norms,
    ranks,
    shapes,
    states,
)
from adaptool.reports.figures import count, listed, percent, plural
from adaptool.reports.html import Cell, Heading, Markup, dotted, section, table, tag
from adaptool.reports.layout import elided

MOST = 1000
"""Rows of a table: for more than that a page is no place, and --json has them all."""
NAME, WHOLE_NAME = 160, 1000
"""Characters of a name, and of the title that has the rest of it."""
BARS = 32
"""Bars of a strip of principal angles."""


def projection_table(comparison: Comparison) -> Markup | None:
    moved = [group for group in comparison.projections if group.changed]
    if not any(group.norm_before or group.norm_after for group in moved):
        return None
    whole = f"{norm(comparison)} before"
    headings = [Heading("projection"), *(Heading(title, True) for title in (
        "changed", "of", whole, "after", "distance", "cosine"))]  # fmt: skip
    rows = [
        [
            name_cell(group.name), Cell(count(group.changed), group.changed), Cell(count(group.modules), group.modules),
            Cell(figure(group.norm_before), group.norm_before), Cell(figure(group.norm_after), group.norm_after),
            Cell(group_distance(group), group.relative), Cell(cosine(group.cosine), group.cosine),
        ]
        for group in moved[:MOST]
    ]  # fmt: skip
    still = [elided(group.name, NAME) for group in comparison.projections if not group.changed]
    return section(
        "By projection",
        table(headings, rows, caption="by projection"),
        tag("p", f"the same: {listed(still, 12)}", class_="note") if still else None,
    )


def module_table(comparison: Comparison) -> Markup | None:
    moved = comparison.largest
    if not moved:
        return None
    headings = [
        Heading("module"), Heading("‖ΔW‖", True), Heading("distance", True), Heading("cosine", True),
        Heading("writes", note="principal angles of the column spaces, 0° to 90°"),
        Heading("reads", note="principal angles of the row spaces, 0° to 90°"),
        Heading("rank", True, "used / declared"), Heading("scale", True),
    ]  # fmt: skip
    note = states(comparison.modules, "module")
    if len(moved) <= MOST:
        return section("Modules", table(headings, map(_module, moved), caption="modules that differ"), note=note)
    rows = layered(comparison.modules)
    if len(rows) > MOST:
        note += f"; the {count(MOST)} rows that moved furthest"
    headings[1:1] = [Heading("changed", True)]
    return section(
        "Modules, by layer and projection",
        table([*headings[:5]], map(_group, rows[:MOST]), caption="modules that differ, by layer and projection"),
        note=note,
    )


def _group(row: tuple[Place, Together]) -> list[Cell]:
    place, group = row
    moved, (before, after) = sum(m.state != "same" for m in group.members), group.norms
    start = ".".join(filter(None, (place.stack, "" if place.layer is None else str(place.layer))))
    return [
        name_cell(".".join(filter(None, (start, place.projection)))),
        Cell(f"{count(moved)} of {count(len(group.members))}", moved),
        Cell(both(before, after, "changed"), after),
        Cell(MEANINGS.get(group.mark) or percent(group.relative), None if group.mark else group.relative),
        Cell(cosine(group.cosine), group.cosine),
    ]


def _module(module: ModuleChange) -> list[Cell]:
    return [
        name_cell(module.module),
        Cell(norms(module), module.norm_after if module.state != "removed" else module.norm_before),
        Cell(far(module), module.relative if module.state == "changed" else None),
        Cell(cosine(module.cosine), module.cosine),
        _angles(module.column_angles),
        _angles(module.row_angles),
        Cell(ranks(module), module.used_after),
        Cell(both(module.scale_before, module.scale_after, module.state), module.scale_after),
    ]


def _angles(angles: Sequence[float]) -> Cell:
    """Principal angles as a strip of bars, 90° high."""
    known = [angle for angle in angles if math.isfinite(angle)]
    if not known:
        return Cell("")
    told = f"{degrees(min(known))} to {degrees(max(known))}, {plural(len(known), 'angle')}"
    bars = [known[i * len(known) // BARS] for i in range(BARS)] if len(known) > BARS else known
    path = "".join(f"M{i} 90V{90 - max(2.0, min(90.0, angle)):.0f}h.8V90" for i, angle in enumerate(bars))
    drawing = tag("svg", tag("title", told), tag("path", d=path), viewBox=f"0 0 {len(bars)} 90", class_="strip",
                  role="img", preserveAspectRatio="none")  # fmt: skip
    return Cell([drawing, tag("span", f" {degrees(max(known))}", class_="note")], max(known), told)


def tensor_table(comparison: Comparison) -> Markup | None:
    if not comparison.tensors:
        return None
    found = largest_tensors(comparison)
    headings = [Heading("tensor"), Heading("type and shape"), Heading("distance", True), Heading("cosine", True)]
    title = "Other tensors" if comparison.modules else "Tensors"
    note = states(found, "tensor", comparison.tensors_same)
    if len(found) > MOST:
        note += f"; the first {count(MOST)} that differ"
    return section(title, table(headings, map(_tensor, found[:MOST]), caption=title), note=note)


def _tensor(tensor: TensorChange) -> list[Cell]:
    return [
        name_cell(tensor.name), Cell(shapes(tensor)), Cell(far(tensor), tensor.relative),
        Cell(cosine(tensor.cosine), tensor.cosine),
    ]  # fmt: skip


def name_cell(name: str) -> Cell:
    short = elided(name, NAME)
    return Cell(dotted(short), title=None if short == name else elided(name, WHOLE_NAME))
