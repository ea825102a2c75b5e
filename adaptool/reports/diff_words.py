"""What every report of a comparison says alike: the two by name, a change of a field, a module's figures."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from adaptool.comparing.result import Comparison, ConfigChange, ModuleChange, Place, Side, State, TensorChange
from adaptool.reports.figures import count, number, percent, plural, ranges, size
from adaptool.reports.layout import Style, elided
from adaptool.summary.settings import title

REVISION = 12
"""Digits of a commit that tell it from the others."""


def tone(comparison: Comparison) -> Style:
    """How much the verdict should worry: nothing changed, the same adapter went on, or it is another one."""
    if comparison.equal:
        return "good"
    return "bad" if comparison.verdict in ("other adapter", "other base", "other type") else "warn"


def names(comparison: Comparison) -> tuple[str, str]:
    """What tells the two apart: name and version, or else what the user called them."""
    told = [" ".join(filter(None, (side.name, side.version))) for side in (comparison.before, comparison.after)]
    return (told[0], told[1]) if told[0] != told[1] else (comparison.before.given, comparison.after.given)


def kind(side: Side) -> str:
    """ "LoRA", "IA³", "model"."""
    return title(side.peft_type) if side.peft_type else side.kind


def weight(side: Side) -> str:
    """ "42.0 MB F32"."""
    return f"{size(side.nbytes)} {', '.join(side.dtypes)}".strip()


def base(side: Side) -> str:
    """The base and its revision; a commit by its first digits."""
    if not side.base_model:
        return ""
    revision = side.revision or ""
    short = revision[:REVISION] if len(revision) == 40 else revision
    return f"{side.base_model} @ {short}" if short else side.base_model


def value(item: Any, most: int | None = None) -> str:
    """A field's value as its file would have it, in at most ``most`` columns."""
    text = item if isinstance(item, str) and item else json.dumps(item, ensure_ascii=False, default=str)
    return text if most is None else elided(text, most)


def change_of(change: ConfigChange, most: int | None = None) -> str:
    """ "16 → 32", "+ k_proj  − o_proj"; with what is PEFT's default said to be it."""
    before, after = change.before, change.after
    if _is_names(before) and _is_names(after) and before and after:
        parts = [(sign, [n for n in ours if n not in theirs]) for sign, ours, theirs in (
            ("+", after, before), ("−", before, after))]  # fmt: skip
        told = "  ".join(f"{sign} {', '.join(found)}" for sign, found in parts if found)
        if told:
            return told if most is None else elided(told, 2 * most)
    sides = [value(item, most) + (" (default)" if change.defaulted == side else "") for item, side in (
        (before, "before"), (after, "after"))]  # fmt: skip
    return " → ".join(sides)


def _is_names(item: Any) -> bool:
    return isinstance(item, list | tuple) and all(isinstance(name, str) for name in item)


def norms(change: ModuleChange) -> str:
    """‖ΔW‖ before and after."""
    return both(change.norm_before, change.norm_after, change.state)


def both(before: float | None, after: float | None, state: str) -> str:
    """Two figures with an arrow; a dash where there is no such thing."""
    one = "–" if state == "added" else figure(before)
    two = "–" if state == "removed" else figure(after)
    return one if one == two else f"{one} → {two}"


def figure(measured: float | None) -> str:
    """A norm; it is unknown only where the numbers are not finite."""
    return "not finite" if measured is None or not math.isfinite(measured) else number(measured)


def far(change: ModuleChange | TensorChange) -> str:
    """The relative distance, or why there is none."""
    if change.state in ("added", "removed"):
        return change.state
    if change.distance is None:
        return "other shape" if _reshaped(change) else "not finite"
    return "from zero" if change.relative is None else percent(change.relative)


def _reshaped(change: ModuleChange | TensorChange) -> bool:
    if isinstance(change, TensorChange):
        return change.shape_before != change.shape_after
    return change.norm_before is not None and change.norm_after is not None


def cosine(measured: float | None) -> str:
    """Three decimals, and near 1 as many as tell it from 1: "0.934", "0.99998"."""
    if measured is None:
        return ""
    short = 1 - measured
    decimals = min(9, math.ceil(-math.log10(short))) if 1e-9 < short < 5e-4 else 3
    return "1" if abs(short) <= 1e-9 else f"{round(measured, decimals) + 0.0:.{decimals}f}"


def angles(change: ModuleChange) -> tuple[float, ...]:
    """Every principal angle there is, of what is written and of what is read."""
    return tuple(angle for angle in (*change.column_angles, *change.row_angles) if math.isfinite(angle))


def largest_angle(change: ModuleChange) -> str:
    """The largest principal angle."""
    found = angles(change)
    return degrees(max(found)) if found else ""


def degrees(angle: float) -> str:
    """ "23.4°"."""
    return f"{angle:.2g}°" if angle < 1 else f"{angle:.3g}°"


def ranks(change: ModuleChange) -> str:
    """The rank that is used of the rank there is, before and after: "8/16 → 16/16"."""
    sides = [(change.used_before, change.rank_before), (change.used_after, change.rank_after)]
    told = [_rank(used, declared) for used, declared in sides]
    if change.state in ("added", "removed"):
        return told[change.state == "added"]
    return told[0] if told[0] == told[1] else " → ".join(told)


def _rank(used: int | None, declared: int | None) -> str:
    if declared is None:
        return "–"
    return str(declared) if used is None else f"{used}/{declared}"


def one_stack(comparison: Comparison) -> str | None:
    """The list of layers that all layered modules and tensors are in; None where there are several, or none."""
    places = [module.place for module in comparison.modules] + [tensor.place for tensor in comparison.tensors]
    stacks = {place.stack for place in places if place.layer is not None}
    return stacks.pop() if len(stacks) == 1 else None


def short_name(name: str, place: Place, stack: str | None) -> str:
    """A module within the only stack there is: `` 3 self_attn.q_proj``; its whole name where there are others."""
    if place.layer is None or stack is None or place.stack != stack:
        return name
    start = f"{stack}.{place.layer}." if stack else f"{place.layer}."
    inside = name.find(start)
    return name if inside < 0 else f"{place.layer:>3} {name[inside + len(start) :]}"


def together(places: Iterable[Place], stack: str | None) -> list[str]:
    """Modules by projection, with the layers they are in: "self_attn.k_proj in 13-15"."""
    found: dict[str, list[int]] = {}
    for place in places:
        prefix = f"{place.stack}." if place.stack and place.stack != stack else ""
        layered = found.setdefault(f"{prefix}{place.projection}", [])
        if place.layer is not None:
            layered.append(place.layer)
    return [f"{name} in {ranges(sorted(set(inside)))}" if inside else name for name, inside in found.items()]


STATES: dict[State, str] = {"changed": "changed", "added": "added", "removed": "removed", "same": "the same"}


def states(changes: Iterable[ModuleChange | TensorChange], noun: str, same: int = 0) -> str:
    """ "224 modules: 200 changed, 24 added"; ``same`` are those not among ``changes``."""
    found = Counter(change.state for change in changes)
    found["same"] += same
    shown = [(found[state], word) for state, word in STATES.items() if found[state]]
    whole = plural(found.total(), noun)
    if len(shown) == 1:
        return f"{whole}, {'all ' if found.total() > 1 else ''}{shown[0][1]}"
    return f"{whole}: {', '.join(f'{count(many)} {word}' for many, word in shown)}" if shown else whole


def immaterial(comparison: Comparison) -> list[ConfigChange]:
    """Changes of fields that change nothing else."""
    return [change for change in comparison.config if not change.matters]


def material(comparison: Comparison) -> list[ConfigChange]:
    """Changes of fields that may change what is computed."""
    return [change for change in comparison.config if change.matters]


def largest_tensors(comparison: Comparison) -> list[TensorChange]:
    """The other tensors that differ, what came and went first, then the furthest from what it was."""
    return sorted(comparison.tensors, key=lambda t: (t.state == "changed", -_order(t.relative)))


def _order(relative: float | None) -> float:
    return math.inf if relative is None or not math.isfinite(relative) else relative


def shapes(change: TensorChange) -> str:
    """Type and shape, and what each became: "F32 32000×64 → 32008×64", "F32 → BF16 2048"."""
    dtypes = [dtype for dtype in (change.dtype_before, change.dtype_after) if dtype is not None]
    sizes = ["×".join(map(str, shape)) for shape in (change.shape_before, change.shape_after) if shape is not None]
    return f"{' → '.join(dict.fromkeys(dtypes))} {' → '.join(dict.fromkeys(sizes))}".strip()


def where(place: Place) -> str:
    """ "layer 3, self_attn.q_proj", with its stack where it has one."""
    if place.layer is None:
        return place.projection
    return f"{place.stack + ' ' if place.stack else ''}layer {place.layer}, {place.projection}"


def owed(comparison: Comparison) -> str:
    """What a version should do about it."""
    words = {"none": "no new version is needed", "patch": "a patch version", "minor": "a minor version",
             "major": "a major version"}  # fmt: skip
    return words[comparison.level] + (f": {'; '.join(comparison.reasons)}" if comparison.reasons else "")


def totals(comparison: Comparison) -> str:
    """‖ΔW‖ before and after, how far apart the two are, and in which direction."""
    changed = comparison.norm_after / comparison.norm_before - 1 if comparison.norm_before else None
    more = f" ({100 * changed:+.3g} %)" if changed is not None and abs(changed) >= 5e-5 else ""
    apart = f"{percent(comparison.relative)} of it apart" if comparison.relative is not None else "from zero"
    angle = f", cosine {cosine(comparison.cosine)}" if comparison.cosine is not None else ""
    return f"{both(comparison.norm_before, comparison.norm_after, 'changed')}{more}, {apart}{angle}"
