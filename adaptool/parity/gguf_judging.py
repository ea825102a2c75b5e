"""Judging rows of a GGUF: are they what its model gives, byte for byte, or as near to it as their type allows?

Quantisation hides small things. An update of two per cent vanishes in the seven that Q4_K loses, and a file without it
is within the band all the same. But quantisation errors do not know the update's direction: the error's projection on
the update tells a merged model from its base, in two bits too, and our own quantiser says what to expect of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from adaptool.gguf.dequantized import floats
from adaptool.gguf.imatrix import Imatrix
from adaptool.gguf.mixtures import Choice
from adaptool.gguf.quantised import Quantised
from adaptool.parity.compare import Pair
from adaptool.parity.gguf_bands import block_bound, typical
from adaptool.parity.gguf_judged import Judged, Place, Update, total
from adaptool.parity.gguf_model import GgufModel
from adaptool.tensors.dtypes import BF16, F16, F32, Array, DType, Floats, narrow, widen
from adaptool.tensors.ggml.prebuilt import IMPORTANCE_REQUIRED
from adaptool.tensors.ggml.quantize import backends
from adaptool.tensors.ggml.types import GGMLType
from adaptool.tensors.store import Store, TensorInfo
from adaptool.tensors.views import Selected


class Judge:
    """Judges rows of a file against a model; safe to call from several threads.

    ``names`` are the file's tensors by name, each with the model's. ``whole``: every row is quantised again and
    compared byte by byte; else the first, middle and last rows are, for their loss alone. Of slow types few rows are.
    """

    def __init__(
        self, model: GgufModel, actual: Store, names: Mapping[str, str], imatrix: Imatrix | None, *, whole: bool
    ) -> None:
        self._model, self._actual, self._names = model, actual, names
        self._imatrix, self._whole = imatrix, whole
        self._expected = Selected(model.converted, names)
        self._ours = again(model.converted, actual, names, imatrix)
        self._routes = [again(model.by_way_of(kind).converted, actual, names, imatrix) for kind in (F16, F32)]

    def __call__(self, pair: Pair, start: int, stop: int) -> Judged:
        """Rows ``start:stop`` of a tensor, by the file's name for it."""
        info = self._actual[pair.actual]
        middle = min(stop, self._asked(info, start, stop))
        parts = ((start, middle, True), (middle, stop, False))
        judged = [self._rows(info, first, last, ask=ask) for first, last, ask in parts if first < last]
        return total(judged) if judged else Judged()

    def _rows(self, info: TensorInfo, start: int, stop: int, *, ask: bool) -> Judged:
        name = info.name
        raw = self._actual.read(name, start, stop)
        x = numbers(self._expected, name, start, stop)
        q = file_values(raw, info)
        ours = self._ours.read(name, start, stop) if ask else None
        unequal = _unequal(raw, ours, info.dtype) if ours is not None and self._compares(info.dtype) else None
        found = replace(self._compared(raw, unequal, info, start, x), elements=x.size)
        if broken := int(np.count_nonzero(~np.isfinite(q) & np.isfinite(x))):
            return replace(found, nonfinite=broken)
        away = q - x
        found = replace(found, squares=dot(x, x), error=dot(away, away), product=dot(q, x), own_squares=dot(q, q))
        if unequal is not None and not found.unequal:
            return replace(found, sampled=found.squares, ours=found.error)
        made = None if ours is None else file_values(ours, info)
        if made is not None:
            found = replace(found, sampled=found.squares, ours=dot(made - x, made - x))
        if made is not None or not can_quantise(info.dtype, self._imatrix):
            found = replace(found, **self._along(info, start, stop, q, x, made))
        return replace(found, **self._damage(info, start, x, away, unequal, made))

    def _asked(self, info: TensorInfo, start: int, stop: int) -> int:
        """The first of the rows that are not quantised again."""
        if not can_quantise(info.dtype, self._imatrix):
            return start
        if info.dtype.name in SLOW:
            return start + max(1, SLOW_ELEMENTS // max(1, info.columns))
        wanted = self._compares(info.dtype) or any(start <= row < stop for row in (0, info.rows // 2, info.rows - 1))
        return stop if wanted else start

    def _compared(self, raw: Array, unequal: Array | None, info: TensorInfo, start: int, x: Floats) -> Judged:
        if unequal is None:
            return Judged()
        number = int(np.count_nonzero(unequal))
        few = 0 < number <= REROUTED_SHARE * unequal.size or not info.dtype.blocked
        left = self._unrouted(raw, unequal, info, start, x) if few else unequal
        place = _first(left, start, info.dtype.block if isinstance(info.dtype, GGMLType) else 1)
        rerouted = number - int(np.count_nonzero(left))
        return Judged(blocks=unequal.size, unequal=number, rerouted=rerouted, unequal_at=place)

    def _unrouted(self, raw: Array, unequal: Array, info: TensorInfo, start: int, x: Floats) -> Array:
        """Those of the unequal blocks that no other 16-bit type on the way explains."""
        left = unequal.copy()
        if not isinstance(info.dtype, GGMLType):
            for kind in (F16, BF16):
                left &= raw.reshape(left.shape) != narrow(widen(narrow(x, kind), kind), info.dtype)
            return left
        for route in self._routes:
            for row in np.flatnonzero(left.any(axis=1)):
                once = route.read(info.name, start + int(row), start + int(row) + 1)
                left[row] &= _unequal(raw[row : row + 1], once, info.dtype)[0]
        return left

    def _compares(self, kind: DType) -> bool:
        """Whether bytes tell: without the imatrix that was used, those of quantised types do not."""
        return self._whole or not isinstance(kind, GGMLType)

    def _damage(
        self, info: TensorInfo, start: int, x: Floats, away: Floats, unequal: Array | None, made: Floats | None
    ) -> dict[str, Any]:
        """Blocks that lost more than the type's can, and more than our quantiser loses there."""
        kind = info.dtype
        width = kind.block if isinstance(kind, GGMLType) else x.shape[-1]
        lost, held = _by_block(away, width), _by_block(x, width)
        rounded = self._model.float_type if self._names[info.name] in self._model.touched else None
        suspects = lost > block_bound(kind, rounded, imatrix=not self._whole) ** 2 * held
        if unequal is not None and isinstance(kind, GGMLType):
            suspects &= unequal
        if suspects.any() and made is None and can_quantise(kind, self._imatrix):
            made = file_values(self._ours.read(info.name, start, start + len(x)), info)
        if suspects.any() and made is not None:
            suspects &= lost > BLOCK_SLACK * _by_block(made - x, width)
        count = int(np.count_nonzero(suspects))
        return {
            "damaged": count,
            "damaged_elements": count * width,
            "damaged_error": float(lost[suspects].sum()),
            "damaged_at": _first(suspects, start, width),
        }

    def _along(
        self, info: TensorInfo, start: int, stop: int, q: Floats, x: Floats, made: Floats | None
    ) -> dict[str, Any]:
        """The projections on the update, and the distance from the merge without its rounding."""
        unmerged, unrounded = self._model.unmerged, self._model.unrounded
        own = self._names[info.name]
        if unmerged is None or unrounded is None or own not in self._model.touched:
            return {}
        base, exact = numbers(unmerged, own, start, stop), numbers(unrounded, own, start, stop)
        delta, moved = exact - base, q - base
        # least squares shrink what they quantise, and with it the update
        ours = dot((x if made is None else made) - base, delta) * (1 - typical(info.dtype) ** 2 if made is None else 1)
        return {
            "update": Update(q.size, dot(delta, delta), dot(moved, delta), dot(moved, moved), ours),
            "unrounded": dot(q - exact, q - exact),
            "unrounded_squares": dot(exact, exact),
        }


SLOW = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")
"""Types whose quantisers search long: a tenth of a million elements a second and less. Of them a few rows are made."""

SLOW_ELEMENTS = 4096
"""Of each block of rows."""

BLOCK_SLACK = 4.0
"""Times our quantiser's squared loss of a block that any faithful one may lose."""

REROUTED_SHARE = 0.1
"""Of the blocks of some rows: where more differ, another 16-bit type on the way is not the reason."""


def again(converted: Store, actual: Store, names: Mapping[str, str], imatrix: Imatrix | None) -> Quantised:
    """A model's tensors under the file's names and in its types."""
    choices = {name: Choice(actual[name].dtype) for name in names}
    return Quantised(Selected(converted, names), choices, imatrix)


def numbers(store: Store, name: str, start: int, stop: int) -> Floats:
    """Rows of a plain type as float32, C-contiguous."""
    return np.ascontiguousarray(widen(store.read(name, start, stop), store[name].dtype), np.float32)


def can_quantise(kind: DType, imatrix: Imatrix | None) -> bool:
    """Whether a type's blocks can be made here."""
    if not isinstance(kind, GGMLType):
        return True
    weighted = imatrix is not None
    return (weighted or kind.name not in IMPORTANCE_REQUIRED) and bool(backends(kind, weighted=weighted))


def file_values(raw: Array, info: TensorInfo) -> Floats:
    """Stored rows as float32: (rows, columns)."""
    return np.ascontiguousarray(floats(raw, info), np.float32).reshape(-1, info.columns)


def dot(one: Floats, other: Floats) -> float:
    """<one, other>, over all elements."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.vdot(one, other))


def _unequal(raw: Array, ours: Array, kind: DType) -> Array:
    """Where bytes differ: (rows, blocks), or (rows, columns) of a plain type."""
    if not isinstance(kind, GGMLType):
        return raw.reshape(ours.shape) != ours
    if np.array_equal(raw, ours):
        return np.zeros((len(raw), raw.shape[1] // kind.block_nbytes), bool)
    return (raw != ours).reshape(len(raw), -1, kind.block_nbytes).any(axis=-1)


def _first(marked: Array, start: int, width: int) -> Place | None:
    """Where the first marked block of ``width`` columns begins."""
    if not marked.any():
        return None
    row, block = np.unravel_index(int(np.argmax(marked)), marked.shape)
    return start + int(row), int(block) * width


def _by_block(values: Floats, width: int) -> Floats:
    """Squared norms of blocks: (rows, blocks)."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.square(values).reshape(len(values), -1, width).sum(axis=-1)
