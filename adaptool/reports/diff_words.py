"""What every report of a comparison says alike: the two by name, a change of a field, a module's figures."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from adaptool.comparing.result import Comparison, ConfigChange, Group, ModuleChange, Place, Side, State, TensorChange
from adaptool.reports.figures import count, listed, number, percent, plural, ranges, size
from adaptool.reports.layout import Style, elided
from adaptool.summary.settings import title

UNKNOWN = "unknown"
NAME = 48
"""Columns of a name within a sentence."""
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
    """A norm; unknown where numbers are not finite, or were not worked out."""
    return UNKNOWN if measured is None or not math.isfinite(measured) else number(measured)


def far(change: ModuleChange | TensorChange) -> str:
    """The relative distance, or why there is none."""
    if change.state in ("added", "removed"):
        return change.state
    if change.distance is not None:
        return distance(change.relative)
    if isinstance(change, TensorChange):
        return "not finite" if change.shape_before == change.shape_after else "other shape"
    return UNKNOWN


def distance(relative: float | None) -> str:
    """A relative distance; there is none from zero."""
    return "from zero" if relative is None else percent(relative)


def group_distance(group: Group) -> str:
    """The relative distance of a group; unknown where it is of a member."""
    known = group.relative is not None or (not group.norm_before and group.norm_after)
    return distance(group.relative) if known else UNKNOWN


def cosine(measured: float | None) -> str:
    """Three decimals, and near 1 as many as tell it from 1: "0.934", "0.99998"."""
    if measured is None:
        return ""
    short = 1 - measured
    decimals = min(9, math.ceil(-math.log10(short) - 1e-6)) if 1e-9 < short < 5e-4 else 3
    return "1" if abs(short) <= 1e-9 else f"{round(measured, decimals) + 0.0:.{decimals}f}"


def angles(change: ModuleChange) -> tuple[float, ...]:
    """Every principal angle there is, of what is written and of what is read."""
    return tuple(angle for angle in (*change.column_angles, *change.row_angles) if math.isfinite(angle))


def largest_angle(change: ModuleChange) -> str:
    """The largest principal angle."""
    found = angles(change)
    return degrees(max(found)) if found else ""


def degrees(angle: float) -> str:
    """ "23.4°"; what is below a hundredth is rounding."""
    return f"{round(angle, 2):.3g}°"


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
    """Modules that are in the same layers, with these: "self_attn.k_proj, self_attn.v_proj in layers 13-15"."""
    layered: dict[str, set[int]] = {}
    for place in places:
        prefix = f"{place.stack}." if place.stack and place.stack != stack else ""
        layered.setdefault(elided(f"{prefix}{place.projection}", NAME), set()).update(
            () if place.layer is None else (place.layer,)
        )
    alike: dict[tuple[int, ...], list[str]] = {}
    for name, inside in layered.items():
        alike.setdefault(tuple(sorted(inside)), []).append(name)
    return [f"{listed(found)}{_in_layers(inside)}" for inside, found in alike.items()]


def _in_layers(layers: Sequence[int]) -> str:
    return f" in layer{'s' * (len(layers) > 1)} {elided(ranges(layers), NAME)}" if layers else ""


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
    """What a version should do about it, and why where the verdict has not said so already."""
    words = {"none": "no new version is needed", "patch": "a patch version", "minor": "a minor version",
             "major": "a major version"}  # fmt: skip
    why = [reason for reason in comparison.reasons if reason != comparison.because]
    return words[comparison.level] + (f": {'; '.join(why)}" if why else "")


def norm(comparison: Comparison) -> str:
    """What the norms are of: an adapter's updates, or a model's weights."""
    return "‖W‖" if comparison.before.kind == "model" else "‖ΔW‖"


def totals(comparison: Comparison) -> str:
    """‖ΔW‖ before and after, how far apart the two are, and in which direction."""
    before, after = comparison.norm_before, comparison.norm_after
    if comparison.modules and all(module.state == "same" for module in comparison.modules):
        return f"{figure(before)}, the same in every module"
    if comparison.relative is None:
        return f"{both(before, after, 'changed')}; how far apart the two are is not known" if before else (
            f"{both(before, after, 'changed')}, from zero")  # fmt: skip
    more = f" ({100 * (after / before - 1):+.3g} %)" if before and abs(after / before - 1) >= 5e-5 else ""
    angle = f", cosine {cosine(comparison.cosine)}" if comparison.cosine is not None else ""
    return f"{both(before, after, 'changed')}{more}, {percent(comparison.relative)} of it apart{angle}"
