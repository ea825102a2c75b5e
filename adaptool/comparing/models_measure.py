"""One tensor of two models measured, a block of rows at a time: norms, distance, and what it was rounded to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from adaptool.comparing.tensors import WHOLE_NUMBERS, Apart
from adaptool.gguf.dequantized import Dequantized
from adaptool.parity.compare import Pair
from adaptool.tensors.bnb import Bnb4bit
from adaptool.tensors.compute import NumpyCompute
from adaptool.tensors.dtypes import BF16, F16, F32, Array, DType, Floats, widen
from adaptool.tensors.store import Store, TensorInfo

BLOCK_BYTES = 1 << 18
"""Of a tensor as it is stored: small enough that its float32 temporaries stay in the processor's cache."""

SUMMED = 1 << 13
"""Elements whose squares are summed in float32 before they go into a float64: an error of 10⁻⁶, and no BLAS threads."""


@dataclass(frozen=True, slots=True)
class Measured:
    """How a tensor, or rows of one, are to their counterpart."""

    pair: Pair
    same: bool
    """Every value is the same, NaN where there was NaN."""
    apart: Apart | None
    """None where some value is no finite number."""
    cast: DType | None = None
    """The second is the first rounded to this type."""
    widened: DType | None = None
    """The first is the second rounded to this type."""


def measure(pair: Pair, before: Store, after: Store) -> Measured:
    """Compare the rows of ``pair`` by value, reading each once. Norms are summed to a relative 10⁻⁶."""
    kinds = before[pair.expected].dtype, after[pair.actual].dtype
    casts, widenings = _narrower(*kinds), _narrower(*kinds[::-1])
    one = two = square = 0.0
    same, counted, itself = True, all(map(_counted, kinds)), before is after and pair.expected == pair.actual
    for start, stop in _spans(pair, before, after):
        shift = pair.actual_row - pair.expected_row
        old = before.read(pair.expected, start, stop)
        new = old if itself else after.read(pair.actual, start + shift, stop + shift)
        equal = itself or (kinds[0] == kinds[1] and np.array_equal(old.view(np.uint8), new.view(np.uint8)))
        if not counted:
            same = same and equal
            continue
        first = _numbers(old, kinds[0])
        one += (energy := _energy(first))
        if equal:
            two += energy
            casts, widenings = _fitting(casts, first, first), _fitting(widenings, first, first)
            continue
        second = _numbers(new, kinds[1])
        with np.errstate(invalid="ignore", over="ignore"):
            rest = np.subtract(second, first)
        gap = _energy(rest)
        if not (gap > 0 or rest.any()) or (gap != gap and np.array_equal(first, second, equal_nan=True)):
            two += energy
            continue
        same = False
        casts, widenings = _fitting(casts, first, second), _fitting(widenings, second, first)
        two, square = two + _energy(second), square + gap
    return Measured(
        pair, same, _apart(one, two, square) if counted else None,
        casts[0] if casts and not same else None, widenings[0] if widenings and not same else None,
    )  # fmt: skip


def same_origin(pair: Pair, before: Store, after: Store) -> bool:
    """Whether two GGUFs hold a tensor in the same bytes: nothing needs to be dequantised then."""
    if not (isinstance(before, Dequantized) and isinstance(after, Dequantized)):
        return False
    old, new = before.origins[pair.expected], after.origins[pair.actual]
    laid_out = (old.start, old.transposed, old.shift) == (new.start, new.transposed, new.shift)
    ordered = (old.order is None) == (new.order is None) and (old.order is None or np.array_equal(old.order, new.order))  # type: ignore[arg-type]
    return (
        laid_out
        and ordered
        and len(old.tensors) == len(new.tensors)
        and all(_same_stored(before.source, a, after.source, b) for a, b in zip(old.tensors, new.tensors, strict=True))
    )


def _same_stored(before: Store, key: str, after: Store, other: str) -> bool:
    one, two = before[key], after[other]
    return (one.shape, one.dtype) == (two.shape, two.dtype) and all(
        np.array_equal(before.read(key, start, stop).view(np.uint8), after.read(other, start, stop).view(np.uint8))
        for start, stop in before.spans(key, BLOCK_BYTES)
    )


def stored_type(store: Store, name: str) -> str:
    """What a tensor is in its file: the quantised type of one that is read dequantised."""
    if isinstance(store, Dequantized):
        return store.source[store.origins[name].tensors[0]].dtype.name
    if isinstance(store, Bnb4bit) and name in store.states:
        return store.states[name].quant_type.upper()
    return store[name].dtype.name


def stored(store: Store) -> Store:
    """The tensors as they lie in the files."""
    return store.source if isinstance(store, Dequantized | Bnb4bit) else store


def rows_of(store: Store, info: TensorInfo, start: int, stop: int) -> Floats:
    """Rows of a tensor as floats."""
    return _numbers(store.read(info.name, start, stop), info.dtype)


def _spans(pair: Pair, before: Store, after: Store) -> Iterator[tuple[int, int]]:
    """Rows of the first, cut as suits the one that computes what it hands out."""
    theirs = after.transforms and not before.transforms
    store, name, first = (after, pair.actual, pair.actual_row) if theirs else (before, pair.expected, pair.expected_row)
    shift = pair.expected_row - first
    for start, stop in store.spans(name, BLOCK_BYTES):
        if start < first + pair.rows and stop > first:
            yield max(start, first) + shift, min(stop, first + pair.rows) + shift


def _counted(kind: DType) -> bool:
    """Whether its elements are numbers that can be read one by one."""
    return not kind.blocked and (kind.name in WHOLE_NUMBERS or (kind.floating and kind.bits >= 8))


def _numbers(raw: Array, kind: DType) -> Floats:
    if kind in (BF16, F16):
        values: Floats = _COMPUTE.load(raw, kind)
        return values
    return widen(raw, kind) if kind.floating else raw.astype(np.float64)


_COMPUTE = NumpyCompute()


def _energy(values: Floats) -> float:
    """‖values‖²."""
    flat = values.reshape(-1)
    with np.errstate(invalid="ignore", over="ignore"):
        return sum(float(np.dot(flat[at : at + SUMMED], flat[at : at + SUMMED])) for at in range(0, flat.size, SUMMED))


def _apart(one: float, two: float, square: float) -> Apart | None:
    """The inner product from the distance, so that nothing cancels where the two are close."""
    if not np.isfinite([one, two, square]).all():
        return None
    first, second = one**0.5, two**0.5
    return Apart(first, second, first * second - (square - (second - first) ** 2) / 2, square**0.5)


def _narrower(of: DType, into: DType) -> Sequence[DType]:
    """What ``of`` may have been rounded to, where it is now stored as ``into``."""
    if not (of.mergeable and into.mergeable):
        return ()
    return [k for k in (BF16, F16, F32) if k != of and k.bits <= of.bits and (k == into or k.bits < into.bits)]


def _fitting(kinds: Sequence[DType], values: Floats, rounded: Floats) -> Sequence[DType]:
    """Those of ``kinds`` that ``values`` are rounded to in ``rounded``."""
    return [k for k in kinds if np.array_equal(_rounded(values, k), rounded)]


def _rounded(values: Floats, kind: DType) -> Floats:
    bits = np.empty(values.shape, kind.storage)
    _COMPUTE.store(values, bits, kind)
    return _numbers(bits, kind)
