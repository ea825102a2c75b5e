"""Where two adapters differ, as maps: layer × projection, one for each stack of layers.

A layer's experts are one cell, whatever their number; a model of hundreds of layers has ranges of them for columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from adaptool.comparing.result import ModuleChange, Place, TensorChange
from adaptool.reports.diff_words import both, cosine, figure
from adaptool.reports.figures import count, percent
from adaptool.reports.heat_map import Tile

MOST_ROWS, MOST_COLUMNS, MOST_MAPS = 60, 128, 8
"""What a page has room for; the maps with the most modules are shown, and the rows that moved most."""

ADDED, REMOVED, FROM_ZERO, NOT_KNOWN = "+", "−", "∗", "?"
MEANINGS = {
    ADDED: "added",
    REMOVED: "removed",
    FROM_ZERO: "was zero",
    NOT_KNOWN: "unknown: of another shape, or not finite",
}

Change = ModuleChange | TensorChange


@dataclass(frozen=True, slots=True)
class Map:
    """One stack's cells."""

    stack: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Tile | None, ...]], ...]
    rows_left_out: int


@dataclass(frozen=True, slots=True)
class Together:
    """Several changes as one: of a layer's experts, or of a range of layers."""

    members: tuple[Change, ...]

    @property
    def distance(self) -> float | None:
        """√Σdistance²; None where one is not known."""
        return _root(member.distance for member in self.members)

    @property
    def norms(self) -> tuple[float | None, float | None]:
        """√Σ‖·‖² before and after; what is not there is nothing. Of a tensor afterwards it is not known."""
        before = _root(0.0 if m.state == "added" else m.norm_before for m in self.members)
        after = _root(0.0 if m.state == "removed" else _norm_after(m) for m in self.members)
        return before, after

    @property
    def relative(self) -> float | None:
        """The relative distance of all of them as one vector; 0 where all are the same."""
        if all(member.state == "same" for member in self.members):
            return 0.0
        distance, before = self.distance, self.norms[0]
        return distance / before if distance is not None and before else None

    @property
    def cosine(self) -> float | None:
        """Of all of them as one vector."""
        if len(self.members) == 1:
            return self.members[0].cosine
        before, after = self.norms
        if not before or not after:
            return None
        return sum((m.cosine or 0.0) * (m.norm_before or 0.0) * (_norm_after(m) or 0.0) for m in self.members) / (
            before * after
        )

    @property
    def mark(self) -> str:
        """What stands for it where no number does."""
        states = {member.state for member in self.members}
        if states == {"added"}:
            return ADDED
        if states == {"removed"}:
            return REMOVED
        if self.relative is not None:
            return ""
        known = all(m.norm_before is not None or m.state in ("added", "removed") for m in self.members)
        return FROM_ZERO if known else NOT_KNOWN


def _norm_after(change: Change) -> float | None:
    return change.norm_after if isinstance(change, ModuleChange) else None


def _root(values: Iterable[float | None]) -> float | None:
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value * value
    return math.sqrt(total) if math.isfinite(total) else None


def layered(changes: Iterable[Change]) -> list[tuple[Place, Together]]:
    """Every place where something changed, all that is there together; the furthest from what it was first."""
    found: dict[Place, list[Change]] = {}
    for change in changes:
        found.setdefault(change.place, []).append(change)
    groups = [(place, Together(tuple(members))) for place, members in found.items()]
    moved = [(place, group) for place, group in groups if group.relative != 0 or group.mark]
    return sorted(moved, key=lambda row: -math.inf if row[1].mark else -(row[1].relative or 0.0))


def maps_of(changes: Sequence[Change]) -> tuple[list[Map], int]:
    """A map for each stack of layers, the ones with the most modules first, and how many stacks are left out."""
    stacks: dict[str, list[Change]] = {}
    for change in changes:
        if change.place.layer is not None:
            stacks.setdefault(change.place.stack, []).append(change)
    largest = sorted(stacks, key=lambda stack: -len(stacks[stack]))[:MOST_MAPS]
    return [_map(stack, stacks[stack]) for stack in stacks if stack in largest], len(stacks) - len(largest)


def _map(stack: str, changes: Sequence[Change]) -> Map:
    layers = sorted({change.place.layer for change in changes if change.place.layer is not None})
    width = math.ceil(len(layers) / MOST_COLUMNS)
    bins = [layers[i : i + width] for i in range(0, len(layers), width)]
    column = {layer: i for i, inside in enumerate(bins) for layer in inside}
    found: dict[str, dict[int, list[Change]]] = {}
    for change in changes:
        cells = found.setdefault(change.place.projection, {})
        cells.setdefault(column[change.place.layer or 0], []).append(change)
    names = [str(inside[0]) if len(inside) == 1 else f"{inside[0]}–{inside[-1]}" for inside in bins]
    rows = [
        (name, tuple(_tile(name, names[i], cells[i]) if i in cells else None for i in range(len(bins))))
        for name, cells in found.items()
    ]
    kept = sorted(range(len(rows)), key=lambda i: -_most(rows[i][1]))[:MOST_ROWS]
    return Map(stack, tuple(names), tuple(rows[i] for i in sorted(kept)), len(rows) - len(kept))


def _most(tiles: Iterable[Tile | None]) -> float:
    return max((math.inf if tile.value is None else tile.value for tile in tiles if tile is not None), default=0.0)


def _tile(projection: str, layer: str, members: Sequence[Change]) -> Tile:
    group = Together(tuple(members))
    mark = group.mark
    return Tile(None if mark else group.relative, f"layer {layer} · {projection}: {_told(group)}", mark)


def _told(group: Together) -> str:
    """A cell in words: its figures, and how many modules it is of."""
    relative, mark = group.relative, group.mark
    moved = sum(member.state != "same" for member in group.members)
    of = f" ({count(moved)} of {count(len(group.members))} modules)" if len(group.members) > 1 else ""
    if relative == 0 and not mark:
        return f"the same{of}"
    if mark in (ADDED, REMOVED):
        norm = group.norms[mark == ADDED]
        return MEANINGS[mark] + (f", norm {figure(norm)}" if norm is not None else "") + of
    if relative is None:
        return MEANINGS[mark] + of
    before, after = group.norms
    angle = f", cosine {cosine(group.cosine)}" if group.cosine is not None else ""
    norms = f", norm {both(before, after, 'changed')}" if after is not None else ""
    return f"{percent(relative)} of its norm apart{angle}{norms}{of}"
