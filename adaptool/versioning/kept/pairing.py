"""Which adapter became which between two sides, also where its folder was renamed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

from adaptool.adapters.adapter import PICKLE_NAME, WEIGHTS_NAME
from adaptool.versioning.kept.sides import Kept, Side, known


@dataclass(frozen=True, slots=True)
class Pair:
    """One adapter before and after; one of them may not be there."""

    before: Kept | None
    after: Kept | None

    @property
    def moved(self) -> bool:
        """Whether its folder has another name now."""
        return self.before is not None and self.after is not None and self.before.folder != self.after.folder

    @property
    def unchanged(self) -> bool:
        """Whether Git knows that nothing of it changed but its place."""
        return self.before is not None and self.after is not None and self.after.unchanged(self.before)

    @property
    def kept(self) -> Kept:
        """The one that is there, the later if both are."""
        found = self.after or self.before
        assert found is not None, "a pair has a side"
        return found


def pairs(before: Side | None, after: Side) -> tuple[Pair, ...]:
    """Every adapter of either side, by its folder."""
    old = before.adapters if before is not None else {}
    both = [Pair(old[folder], kept) for folder, kept in after.adapters.items() if folder in old]
    gone = [kept for folder, kept in old.items() if folder not in after.adapters]
    new = [kept for folder, kept in after.adapters.items() if folder not in old]
    moved = list(_moved(gone, new))
    matched = {id(kept) for pair in moved for kept in (pair.before, pair.after)}
    rest = [Pair(kept, None) for kept in gone if id(kept) not in matched]
    rest += [Pair(None, kept) for kept in new if id(kept) not in matched]
    return tuple(sorted([*both, *moved, *rest], key=lambda pair: pair.kept.folder))


def _moved(gone: Sequence[Kept], new: Sequence[Kept]) -> Iterator[Pair]:
    """Those of which something tells that they are one: the same files, the same content, weights or name."""
    gone, new = list(gone), list(new)
    signs: tuple[Callable[[Kept], Hashable | None], ...] = (_files, _content, _weights, _name)
    for sign in signs:
        if not gone or not new:
            return
        by_sign: dict[Hashable, list[Kept]] = {}
        for kept in new:
            by_sign.setdefault(sign(kept), []).append(kept)
        for old in list(gone):
            told = sign(old)
            candidates = by_sign.get(told, []) if told is not None else []
            if candidates:
                found = next((kept for kept in candidates if _last(kept) == _last(old)), candidates[0])
                candidates.remove(found)
                gone.remove(old)
                new.remove(found)
                yield Pair(old, found)


def _files(kept: Kept) -> Hashable | None:
    blobs = kept.shipped
    return frozenset((name, blob.oid) for name, blob in blobs.items()) if all(map(known, blobs.values())) else None


def _content(kept: Kept) -> Hashable | None:
    return kept.readable.content if kept.readable is not None else None


def _weights(kept: Kept) -> Hashable | None:
    found = [kept.entries[name].oid for name in (WEIGHTS_NAME, PICKLE_NAME) if name in kept.entries]
    return found[0] if found and found[0].strip("0") else None


def _name(kept: Kept) -> Hashable | None:
    return kept.readable.name if kept.readable is not None else None


def _last(kept: Kept) -> str:
    return kept.folder.rpartition("/")[2]
