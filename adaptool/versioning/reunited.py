"""Two manifests of one adapter after a merge: what people said on either side, put together again.

Digests and files are read from the adapter; licence, metrics, parents and the base's pin are nowhere else. Each of
them is merged on its own, three ways: what one side alone changed is taken. Where both did, the side whose weights
were taken decides, and a note says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from adaptool.versioning.record import Content, Parent, Record


@dataclass(frozen=True, slots=True)
class Parted:
    """The manifests of a merge that is being resolved."""

    ours: Record
    theirs: Record
    before: Record | None
    """Where they parted; None where that is not known."""


def reunited(parted: Parted, content: Content) -> tuple[Record, tuple[str, ...]]:
    """The manifest to go on from, where the adapter is now of ``content``; and what has to be told of it."""
    chosen, other, before = parted.ours, parted.theirs, parted.before
    if content == other.content != chosen.content:
        chosen, other = other, chosen
    merged, taken, kept = dict[str, Any](), list[str](), list[str]()
    names = ["description", "license", *(["base"] if chosen.base.name == other.base.name else [])]
    for name in names:
        sides = (None if one is None else getattr(one, name) for one in (before, chosen, other))
        merged[name] = _merged(name, *sides, taken=taken, kept=kept)
    for name in ("metrics", "recipe", "unknown"):
        maps = ({} if one is None else getattr(one, name) for one in (before, chosen, other))
        merged[name] = _merged_maps("" if name == "unknown" else f"{name}.", *maps, taken=taken, kept=kept)
    merged["parents"] = _parents(() if before is None else before.parents, chosen.parents, other.parents, taken)
    return replace(chosen, **merged), tuple(_notes(chosen, taken, kept))


def _notes(chosen: Record, taken: Sequence[str], kept: Sequence[str]) -> Iterator[str]:
    if taken:
        yield f"{chosen.name}: taken from the other side of the merge: {', '.join(taken)}"
    if kept:
        yield f"{chosen.name}: changed on both sides of the merge, kept as in {chosen.version}: {', '.join(kept)}"


def _merged(name: str, before: Any, chosen: Any, other: Any, *, taken: list[str], kept: list[str]) -> Any:
    if other in (chosen, before):
        return chosen
    if chosen == before:
        taken.append(name)
        return other
    kept.append(name)
    return chosen


def _merged_maps(
    within: str, before: Mapping[str, Any], chosen: Mapping[str, Any], other: Mapping[str, Any], *, taken: list[str],
    kept: list[str],
) -> Mapping[str, Any]:  # fmt: skip
    merged = {
        key: _merged(within + key, before.get(key), chosen.get(key), other.get(key), taken=taken, kept=kept)
        for key in {**chosen, **other}
    }
    return {key: value for key, value in merged.items() if value is not None}


def _parents(
    before: tuple[Parent, ...], chosen: tuple[Parent, ...], other: tuple[Parent, ...], taken: list[str]
) -> tuple[Parent, ...]:
    """Those of either side, less those that one side took out."""
    new = tuple(parent for parent in other if parent not in before and parent not in chosen)
    left = tuple(parent for parent in chosen if parent in other or parent not in before)
    if left + new != chosen:
        taken.append("parents")
    return left + new
