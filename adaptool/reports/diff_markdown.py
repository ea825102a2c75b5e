"""A comparison as Markdown for a pull request's comment: the verdict, a small table, and the rest folded.

Whatever two adapters hold, the comment is one that GitHub takes: names are escaped and shortened, and tables have fewer
rows where it would be too long. A hidden first line lets a bot find its comment and update it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from adaptool.comparing.result import Comparison, Group, ModuleChange, TensorChange
from adaptool.reports.diff_words import (
    base,
    both,
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
    totals,
    weight,
)
from adaptool.reports.figures import count, listed
from adaptool.reports.layout import elided, visible
from adaptool.reports.markdown import code, escaped
from adaptool.reports.sparkline import sparkline

LIMIT = 65_536
"""Characters of a comment, by GitHub."""
TOP = 10
NAME, VALUE, TEXT = 96, 80, 600
"""Characters of a name, of a field's value, and of a sentence."""
ROWS = 60
"""Fields, projections and notes: for more than that a comment is no place."""
SPARK = 24

ICONS = {"identical": "✅", "re-saved": "✅", "re-factorised": "✅", "re-scaled": "🟡", "rounded": "🟡",
         "continued training": "🟡", "changed": "🟡"}  # fmt: skip
OTHER = "🔴"

Section = list[str]


def diff_markdown(comparison: Comparison, *, top: int = TOP) -> str:
    """A comment on a comparison; ``top`` modules are named. At most 65,536 characters."""
    rows = ROWS
    while _units(text := _comment(comparison, top, rows)) > LIMIT:
        top, rows = top // 2, rows // 2
    return text


def _comment(comparison: Comparison, top: int, rows: int) -> str:
    parts = [
        _head(comparison),
        _sides(comparison),
        _config(comparison, rows),
        _projections(comparison, rows),
        _modules(comparison, top),
        _tensors(comparison, top),
        _closing(comparison, rows),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def marker(name: str) -> str:
    """The hidden line by which a comment on ``name`` is found again: no name can end it early, or hold a line break."""
    plain = re.sub(r"-{2,}", "-", re.sub(r"[^\w./+-]", "_", name))[:NAME]
    return f"<!-- adaptool diff {plain} -->"


def _units(text: str) -> int:
    """Characters as GitHub counts them: UTF-16's."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def _name(text: str) -> str:
    return code(elided(visible(text), NAME))


def _sentence(text: str) -> str:
    return escaped(elided(visible(" ".join(text.split())), TEXT))


def _head(comparison: Comparison) -> Section:
    icon = "✅" if comparison.equal else ICONS.get(comparison.verdict, OTHER)
    before, after = (_name(name) for name in names(comparison))
    return [
        marker(comparison.after.name),
        f"### {icon} {before} → {after}: {comparison.verdict}",
        "",
        _sentence(comparison.because),
    ]


def _sides(comparison: Comparison) -> Section:
    if comparison.equal:
        return []
    rows = []
    for letter, side in (("A", comparison.before), ("B", comparison.after)):
        told = (side.name, side.version or "", kind(side), side.rank, weight(side), base(side))
        rows.append([letter, *map(_name, told)])
    return [*_table(["", "name", "version", "type", "rank", "weights", "base"], rows)]


def _config(comparison: Comparison, most: int) -> Section:
    shown = material(comparison)
    rest = [_name(change.field) for change in immaterial(comparison)]
    rows = [
        [_name(c.field), code(elided(visible(change_of(c, VALUE)), 2 * NAME)), _sentence(c.effect)]
        for c in shown[:most]
    ]
    lines = [*_table(["config", "", "effect"], rows)] if rows else []
    if len(shown) > most:
        lines += ["", f"and {count(len(shown) - most)} more fields"]
    if rest:
        lines += ["", f"{len(rest)} {'field differs and changes' if len(rest) == 1 else 'fields differ and change'} "
                  f"nothing: {listed(rest)}"]  # fmt: skip
    return lines[1:] if lines and not lines[0] else lines


def _projections(comparison: Comparison, most: int) -> Section:
    moved = [group for group in comparison.projections if group.changed]
    if comparison.equal or not (comparison.norm_before or comparison.norm_after):
        return []
    over = f"; {states(comparison.modules, 'module')}" if comparison.modules else ""
    lines = [f"{norm(comparison)} {escaped(totals(comparison))}{over}."]
    for state in ("added", "removed"):
        if found := together([m.place for m in comparison.modules if m.state == state], one_stack(comparison)):
            lines += ["", f"{state}: {listed([_name(name) for name in found])}"]
    if any(group.norm_before or group.norm_after for group in moved):
        heads = ["projection", "changed", norm(comparison), "distance", "cosine", "by layer"]
        lines += ["", *_table(heads, map(_group, moved[:most]), right=range(1, 5))]
    if len(moved) > most:
        lines += ["", f"and {count(len(moved) - most)} more projections"]
    return lines


def _group(group: Group) -> list[str]:
    changed = count(group.changed) if group.changed == group.modules else f"{group.changed} of {group.modules}"
    return [
        _name(group.name), changed, both(group.norm_before, group.norm_after, "changed"),
        group_distance(group), cosine(group.cosine),
        code(sparkline(group.by_layer, SPARK)) if len(group.by_layer) > 1 else "",
    ]  # fmt: skip


def _modules(comparison: Comparison, top: int) -> Section:
    moved = [module for module in comparison.largest if module.state == "changed"]
    if comparison.equal or not any(module.distance is not None for module in moved[:top]):
        return []
    stack = one_stack(comparison)

    def row(module: ModuleChange) -> list[str]:
        name = short_name(module.module, module.place, stack).strip()
        return [_name(name), norms(module), far(module), cosine(module.cosine), largest_angle(module), ranks(module)]

    shown = len(moved[:top])
    title = (
        f"The {shown} modules furthest from what they were, of {count(len(moved))}" if shown < len(moved) else "Modules"
    )
    heads = ["layer and module", "‖ΔW‖", "distance", "cosine", "largest angle", "rank used/declared"]
    return _folded(title, _table(heads, map(row, moved[:top]), right=range(1, 6)))


def _tensors(comparison: Comparison, top: int) -> Section:
    if not comparison.tensors:
        return []
    stack, found = one_stack(comparison), largest_tensors(comparison)

    def row(tensor: TensorChange) -> list[str]:
        name = short_name(tensor.name, tensor.place, stack).strip()
        return [_name(name), _name(shapes(tensor)), far(tensor), cosine(tensor.cosine)]

    noun = "other tensor" if comparison.modules else "tensor"
    heads = ["layer and tensor", "type and shape", "distance", "cosine"]
    return _folded(states(found, noun, comparison.tensors_same), _table(heads, map(row, found[:top]), right=(2, 3)))


def _closing(comparison: Comparison, most: int) -> Section:
    lines = [f"- {_sentence(note)}" for note in comparison.notes[:most]]
    if comparison.equal and comparison.level == "none":
        return lines
    return [*lines, *([""] if lines else []), f"**Version**: asks for {_sentence(owed(comparison))}"]


def _folded(title: str, lines: Iterable[str]) -> Section:
    return ["<details>", f"<summary>{title}</summary>", "", *lines, "", "</details>"]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> Iterator[str]:
    """A table of cells that are Markdown already; a column that is empty in every row is left out."""
    body = list(rows)
    shown = [i for i in range(len(heads)) if any(row[i] for row in body)]
    yield _row(heads[i] for i in shown)
    yield "|" + "|".join("--:" if i in set(right) else "---" for i in shown) + "|"
    yield from (_row(row[i] for i in shown) for row in body)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
