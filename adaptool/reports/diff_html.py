"""A comparison as one offline page: the verdict, where the two differ layer by layer, and every figure behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from adaptool import __version__
from adaptool.comparing.result import Comparison, Side
from adaptool.reports.diff_html_tables import MOST, NAME, module_table, name_cell, projection_table, tensor_table
from adaptool.reports.diff_maps import ADDED, FROM_ZERO, MEANINGS, NOT_KNOWN, REMOVED, Change, maps_of
from adaptool.reports.diff_words import (
    UNKNOWN,
    base,
    both,
    change_of,
    cosine,
    distance,
    immaterial,
    kind,
    material,
    names,
    norm,
    owed,
    tone,
    weight,
)
from adaptool.reports.figures import count, plural
from adaptool.reports.heat_map import heat_map, legend, scale_of
from adaptool.reports.html import Cell, Heading, Markup, Row, card, facts, page, pill, section, table, tag, tiles
from adaptool.reports.layout import elided

VALUE, SENTENCE = 400, 2000
"""Characters of a field's value, and of a sentence."""

HOW_TO_READ = (
    ("ΔW", "what the adapter adds to a weight: scale · B · A. B and A are not unique, so only ΔW is compared."),
    ("distance", "‖ΔW′ − ΔW‖ / ‖ΔW‖: 0 % is the same, 100 % is as far as from no update at all."),
    ("cosine", "of the angle between the two updates: 1 is the same direction, 0 has nothing to do with it."),
    (
        "principal angles",
        "between the spaces the two updates write to (columns) and read from (rows), in degrees: as many as the rank, "
        "the smallest first. All near 0°: the same space; near 90°: new directions.",
    ),
    ("rank", "used / declared: singular values above a millionth of the largest, of those there is room for."),
)


def diff_html(comparison: Comparison) -> str:
    """The page of a comparison: at most a few MB, whatever the two are."""
    before, after = (elided(name, NAME) for name in names(comparison))
    return page(
        f"{before} → {after}: {comparison.verdict}",
        tag("p", "adaptool diff", class_="note"),
        tag("h1", before, " → ", after),
        tag("p", pill(comparison.verdict, tone(comparison))),
        tag("p", elided(comparison.because, SENTENCE), class_="lead"),
        _figures(comparison),
        tag("div", _side("A", comparison.before), _side("B", comparison.after), class_="cards"),
        _version(comparison),
        _notes(comparison),
        _config(comparison),
        _maps(comparison),
        projection_table(comparison),
        module_table(comparison),
        tensor_table(comparison),
        section("How to read this", facts(HOW_TO_READ)),
        tag("footer", tag("p", f"adaptool {__version__}. --json has every figure.", class_="note")),
    )


def _figures(comparison: Comparison) -> Markup | None:
    if not (comparison.norm_before or comparison.norm_after):
        return None
    changed = comparison.norm_after / comparison.norm_before - 1 if comparison.norm_before else None
    model = comparison.before.kind == "model"
    things, parts = ("tensors", "weights") if model else ("modules", "updates")
    moved = len(comparison.tensors if model else comparison.largest)
    of = moved + comparison.tensors_same if model else len(comparison.modules)
    apart = UNKNOWN if comparison.relative is None and comparison.norm_before else distance(comparison.relative)
    return tiles(
        [
            (
                norm(comparison),
                both(comparison.norm_before, comparison.norm_after, "changed"),
                "" if not changed or abs(changed) < 5e-5 else f"{100 * changed:+.3g} %",
            ),
            ("distance", apart, f"of {norm(comparison)}" if comparison.relative is not None else ""),
            ("cosine", cosine(comparison.cosine) or "–", f"of all {parts} as one"),
            (f"{things} that differ", count(moved), f"of {count(of)}"),
        ]
    )


def _side(letter: str, side: Side) -> Markup:
    told = [
        ("given as", tag("code", elided(side.given, VALUE))),
        ("version", side.version),
        ("type", kind(side)),
        ("rank", side.rank),
        ("weights", f"{weight(side)} in {plural(side.tensors, 'tensor')}"),
        ("base", base(side)),
    ]
    return card(
        f"{letter} · {elided(side.name or side.given, NAME)}",
        facts((name, value if isinstance(value, Markup) else elided(value, VALUE)) for name, value in told if value),
    )


def _version(comparison: Comparison) -> Markup | None:
    if comparison.equal and comparison.level == "none":
        return None
    return tag("p", tag("strong", "Version: "), "asks for ", elided(owed(comparison), SENTENCE), ".")


def _notes(comparison: Comparison) -> Iterator[Markup]:
    for note in comparison.notes[:MOST]:
        yield tag("p", elided(note, SENTENCE), class_="aside")


def _config(comparison: Comparison) -> Markup | None:
    shown, rest = material(comparison), immaterial(comparison)
    if not comparison.config:
        return None
    headings = [Heading("field"), Heading("before → after"), Heading("what it does")]
    rows: list[Row] = [
        [name_cell(c.field), Cell(tag("code", change_of(c, VALUE))), elided(c.effect, VALUE)] for c in shown[:MOST]
    ]
    quiet: list[Row] = [[name_cell(c.field), Cell(tag("code", change_of(c, VALUE)))] for c in rest[:MOST]]
    return section(
        "Config",
        table(headings, rows, caption="fields that matter", sort=False) if rows else None,
        tag(
            "details",
            tag("summary", f"{plural(len(rest), 'field')} without effect on what is computed"),
            table(headings[:2], quiet, caption="fields without effect", sort=False),
        )
        if quiet
        else None,
    )


def _maps(comparison: Comparison) -> Iterator[Markup]:
    moved = any(module.state != "same" for module in comparison.modules)
    if moved:
        yield from _map_section("Where ΔW moved", "Distance in percent, layer by layer", comparison.modules)
    if any(tensor.place.layer is not None for tensor in comparison.tensors):
        title = "Where the other tensors moved" if comparison.modules else "Where the weights moved"
        yield from _map_section(title, "Distance in percent; what is the same is left out", comparison.tensors)


def _map_section(title: str, note: str, changes: Sequence[Change]) -> Iterator[Markup]:
    maps, left_out = maps_of(changes)
    cells = [tile for one in maps for _, row in one.rows for tile in row if tile is not None]
    if not cells:
        return
    scale = scale_of(tile.value for tile in cells)
    present = {tile.mark for tile in cells}
    marks = [("mark", sign, MEANINGS[sign]) for sign in (ADDED, REMOVED, FROM_ZERO, NOT_KNOWN) if sign in present]
    if any(tile.value == 0 for tile in cells):
        marks.insert(0, ("same", "=", "the same"))
    body = []
    for one in maps:
        body.append(tag("h3", elided(one.stack or "layers", NAME)) if len(maps) > 1 else None)
        rows = [(elided(name, NAME), tiles) for name, tiles in one.rows]
        body.append(heat_map(f"{title}: {one.stack}", one.columns, rows, scale, corner="projection \\ layer"))
        if one.rows_left_out:
            body.append(
                tag("p", f"{plural(one.rows_left_out, 'projection')} that moved less, not shown", class_="note")
            )
    if left_out:
        body.append(tag("p", f"{plural(left_out, 'smaller stack')} of layers not shown", class_="note"))
    how = f"{note}. From colour to colour {'it grows by a factor' if scale.logarithmic else 'it grows evenly'}."
    yield section(title, body, legend(scale, marks), note=how)
