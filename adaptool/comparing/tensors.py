"""Two tensors compared by value, a few MB at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adaptool.tensors.dtypes import Array, DType, narrow, widen
from adaptool.tensors.store import Store, same_bytes

CHUNK = 4 << 20
WHOLE_NUMBERS = {"BOOL", "U8", "I8", "I16", "U16", "I32", "U32", "I64", "U64"}


@dataclass(frozen=True, slots=True)
class Apart:
    """How far two tensors of one shape are apart; Frobenius norms in float64."""

    norm_before: float
    norm_after: float
    inner: float
    distance: float

    @property
    def relative(self) -> float | None:
        """distance / norm_before; None where that is zero and they differ."""
        return ratio(self.distance, self.norm_before)

    @property
    def cosine(self) -> float | None:
        """Of the angle between them; None where one is zero."""
        return ratio(self.inner, self.norm_before * self.norm_after) if self.norm_before * self.norm_after else None


def ratio(part: float, whole: float) -> float | None:
    """part / whole; 0 of nothing is 0, and anything else of nothing is None."""
    if whole:
        return part / whole
    return None if part else 0.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor, and what its values are multiplied with."""

    store: Store
    key: str
    scale: float = 1.0


def apart(before: Entry, after: Entry) -> Apart | None:
    """Compare two tensors of one shape; None where a value is no finite number, or not one to subtract."""
    kinds = before.store[before.key].dtype, after.store[after.key].dtype
    one = two = inner = square = 0.0
    for start, stop in before.store.spans(before.key, CHUNK):
        first = _numbers(before.store.read(before.key, start, stop), kinds[0])
        second = _numbers(after.store.read(after.key, start, stop), kinds[1])
        if first is None or second is None:
            return None
        first, second = first * before.scale, second * after.scale
        rest = second - first
        one, two = one + float((first * first).sum()), two + float((second * second).sum())
        inner, square = inner + float((first * second).sum()), square + float((rest * rest).sum())
    return Apart(one**0.5, two**0.5, inner, square**0.5) if np.isfinite([one, two, inner, square]).all() else None


def same_values(before: Entry, after: Entry) -> bool:
    """Whether two tensors hold the same values, in whatever types; bytes decide where the types are one (NaN too)."""
    first, second = before.store[before.key], after.store[after.key]
    if first.shape != second.shape:
        return False
    if first.dtype == second.dtype and before.scale == after.scale:
        return same_bytes(before.store, before.key, after.store, after.key)
    found = apart(before, after)
    return found is not None and found.distance == 0


def rounded(before: Entry, after: Entry, kind: DType) -> bool:
    """Whether ``after`` holds ``before`` cast to ``kind``, to nearest even, in whatever type that is stored."""
    first, second = before.store[before.key], after.store[after.key]
    if first.shape != second.shape or not (first.dtype.mergeable and second.dtype.mergeable):
        return False
    if first.dtype == kind or not first.dtype.bits >= kind.bits <= second.dtype.bits:
        return False
    return all(
        np.array_equal(
            widen(narrow(widen(before.store.read(before.key, start, stop), first.dtype), kind), kind),
            widen(after.store.read(after.key, start, stop), second.dtype),
        )
        for start, stop in before.store.spans(before.key, CHUNK)
    )


def _numbers(raw: Array, kind: DType) -> NDArray[np.float64] | None:
    if kind.floating and kind.bits >= 8:
        return widen(raw, kind).astype(np.float64, copy=False)
    return raw.astype(np.float64) if kind.name in WHOLE_NUMBERS else None
