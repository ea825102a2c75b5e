"""Modules taken together: by projection, by layer, and all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from adaptool.comparing.result import Group, ModuleChange, TensorChange
from adaptool.comparing.tensors import ratio

Change = ModuleChange | TensorChange

MOST_CELLS = 1_000_000
"""Projections times layers: beyond, their courses are left out."""


def layers_of(changes: Iterable[Change]) -> tuple[int, ...]:
    """Every layer there is."""
    return tuple(sorted({change.place.layer for change in changes if change.place.layer is not None}))


def by_projection(changes: Sequence[ModuleChange], layers: Sequence[int]) -> tuple[Group, ...]:
    """One group a projection of a stack, in the order of the file, with its course over the layers."""
    several = len({change.place.stack for change in changes if change.place.layer is not None}) > 1

    def name(change: ModuleChange) -> str:
        where = change.place
        return f"{where.stack}.{where.projection}" if several and where.stack else where.projection

    grouped = _grouped(changes, name)
    shown = layers if len(grouped) * len(layers) <= MOST_CELLS else ()
    return tuple(_group(key, members, shown) for key, members in grouped.items())


def by_layer(changes: Sequence[ModuleChange], layers: Sequence[int]) -> tuple[Group, ...]:
    """One group a layer."""
    grouped = _grouped([change for change in changes if change.place.layer is not None], lambda c: str(c.place.layer))
    return tuple(_group(str(layer), grouped[str(layer)], ()) for layer in layers if str(layer) in grouped)


def total(changes: Sequence[ModuleChange]) -> Group:
    """All of them as one vector."""
    return _group("", changes, ())


def _grouped(changes: Iterable[ModuleChange], key: Callable[[ModuleChange], str]) -> dict[str, list[ModuleChange]]:
    groups: dict[str, list[ModuleChange]] = {}
    for change in changes:
        groups.setdefault(key(change), []).append(change)
    return groups


def _group(name: str, members: Sequence[ModuleChange], layers: Sequence[int]) -> Group:
    one, two = (sum((n or 0.0) ** 2 for n in norms) ** 0.5 for norms in (
        [m.norm_before for m in members], [m.norm_after for m in members]))  # fmt: skip
    apart = distance(members)
    inner = sum((m.cosine or 0.0) * (m.norm_before or 0.0) * (m.norm_after or 0.0) for m in members)
    known = all(m.distance is not None for m in members)
    per_layer: dict[int | None, list[ModuleChange]] = {}
    for member in members:
        per_layer.setdefault(member.place.layer, []).append(member)
    return Group(
        name, len(members), sum(m.state != "same" for m in members), one, two,
        ratio(apart, one) if known else None, inner / (one * two) if known and one * two else None,
        tuple(_apart(per_layer[layer]) if layer in per_layer else None for layer in layers),
    )  # fmt: skip


def distance(members: Iterable[ModuleChange]) -> float:
    """√Σ‖ΔW′ − ΔW‖²; a module that only one side has is as far as it is long."""
    return sum((m.distance or 0.0) ** 2 for m in members) ** 0.5


def _apart(members: Sequence[ModuleChange]) -> float | None:
    """The relative distance of one layer's modules; 1 for what was added, removed or was zero before."""
    if any(m.distance is None for m in members):
        return None
    whole = sum((m.norm_before or 0.0) ** 2 for m in members) ** 0.5
    found = ratio(distance(members), whole)
    return 1.0 if found is None else found
