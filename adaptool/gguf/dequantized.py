"""A GGUF as the checkpoint it was made of: names and row orders undone, dequantised and rounded once.

A view like any other: rows are dequantised when they are asked for, a small block at a time, so that a quantised model
is a base to merge into, and is written out as a 16-bit one, in constant memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adaptool.gguf.origins import Origin
from adaptool.tensors.dtypes import Array, DType, Floats, narrow, widen
from adaptool.tensors.ggml.dequantize import dequantize
from adaptool.tensors.ggml.types import GGMLType
from adaptool.tensors.store import Extent, Store, TensorInfo, into

BLOCK = 1 << 18
"""Elements dequantised at a time: small enough for the processor's cache."""


@dataclass(frozen=True, eq=False)
class Dequantized(Store):
    """The checkpoint tensors that ``origins`` finds in the GGUF ``source``, all of them as ``target``."""

    source: Store
    origins: Mapping[str, Origin]
    target: DType

    @cached_property
    def infos(self) -> Mapping[str, TensorInfo]:
        return {name: TensorInfo(name, self.target, origin.shape) for name, origin in self.origins.items()}

    @property
    def metadata(self) -> Mapping[str, str]:
        return {"format": "pt"}

    @property
    def files(self) -> frozenset[Path]:
        return self.source.files

    @property
    def transforms(self) -> bool:
        return True

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Array | None = None) -> Array:
        info, start, stop = self.span(name, start, stop)
        origin = self.origins[name]
        if out is None:
            out = np.empty((stop - start, info.columns), self.target.storage)
        if origin.transposed:
            self._columns(origin, start, stop, out)
        elif self._vector(origin):
            into(out, self._elements(origin).reshape(-1, info.columns)[start:stop])
        elif origin.order is None:
            self._fill(origin, origin.start + start, origin.start + stop, None, out)
        else:
            self._ordered(origin, origin.order[start:stop], out)
        return out

    def _vector(self, origin: Origin) -> bool:
        return len(self.source[origin.tensors[0]].shape) == 1

    def _elements(self, origin: Origin) -> Array:
        """A vector, which the checkpoint may hold as a matrix of one row or column."""
        parts = [self._rounded(origin, self.source.read(name), self.source[name]) for name in origin.tensors]
        whole = np.concatenate(parts, axis=None)
        if origin.order is not None:
            return whole[origin.order]
        return whole[origin.start : origin.start + math.prod(origin.shape)]

    def _ordered(self, origin: Origin, wanted: NDArray[np.int64], out: Array) -> None:
        """The rows ``wanted``: taken from one range where they lie close, else run by run."""
        if not len(wanted):
            return
        low, high = int(wanted.min()), int(wanted.max()) + 1
        if high - low <= 2 * len(wanted) and len(origin.tensors) == 1:
            self._fill(origin, low, high, wanted - low, out)
            return
        runs = np.flatnonzero(np.diff(wanted) != 1) + 1
        for first, last in zip((0, *runs), (*runs, len(wanted)), strict=True):
            self._fill(origin, int(wanted[first]), int(wanted[last - 1]) + 1, None, out[first:last])

    def _fill(self, origin: Origin, low: int, high: int, pick: NDArray[np.int64] | None, out: Array) -> None:
        """Rows ``low:high`` of the GGUF's tensors (of those the ones ``pick`` says, in its order) into ``out``."""
        at = 0
        for tensor in origin.tensors:
            info = self.source[tensor]
            first, last = max(low, at), min(high, at + info.rows)
            if first < last and pick is None:
                self._range(origin, info, first - at, last - at, out[first - low : last - low])
            elif first < last:
                self._picked(origin, info, self.source.read(tensor, first - at, last - at), pick, out)
            at += info.rows

    def _range(self, origin: Origin, info: TensorInfo, first: int, last: int, out: Array) -> None:
        if info.dtype == self.target and not origin.shift:
            self.source.read(info.name, first, last, out)
            return
        step = max(1, BLOCK // max(1, info.columns))
        for row in range(first, last, step):
            stop = min(last, row + step)
            out[row - first : stop - first] = self._rounded(origin, self.source.read(info.name, row, stop), info)

    def _picked(self, origin: Origin, info: TensorInfo, raw: Array, pick: NDArray[np.int64] | None, out: Array) -> None:
        step = max(1, BLOCK // max(1, info.columns))
        for row in range(0, len(out), step):
            rows = raw[row : row + step] if pick is None else raw[pick[row : row + step]]
            out[row : row + step] = self._rounded(origin, rows, info)

    def _columns(self, origin: Origin, start: int, stop: int, out: Array) -> None:
        """Columns ``start:stop`` of the GGUF's tensor, as rows: whole blocks of them are dequantised, and cut."""
        info = self.source[origin.tensors[0]]
        block = info.dtype.block if isinstance(info.dtype, GGMLType) else 1
        first, last = start // block, -(-stop // block)
        width = info.width // max(1, info.columns // block)  # of one block, in elements of storage
        cut = TensorInfo(info.name, info.dtype, (info.rows, (last - first) * block))
        step = max(1, BLOCK // max(1, info.columns))
        for row in range(0, info.rows, step):
            raw = self.source.read(info.name, row, min(info.rows, row + step))[:, first * width : last * width]
            rows = self._rounded(origin, np.ascontiguousarray(raw), cut)
            out[:, row : row + step] = rows[:, start - first * block : stop - first * block].T

    def _rounded(self, origin: Origin, raw: Array, info: TensorInfo) -> Array:
        if info.dtype == self.target and not origin.shift:
            return raw
        values = floats(raw, info)
        return narrow(values - np.float32(origin.shift) if origin.shift else values, self.target)

    def extent(self, name: str) -> Extent | None:
        origin, info = self.origins[self[name].name], self[name]
        source = self.source[origin.tensors[0]]
        changed = origin.order is not None or origin.transposed or origin.shift or source.dtype != self.target
        whole = None if changed or len(origin.tensors) > 1 else self.source.extent(source.name)
        if whole is None:
            return None
        unit = source.dtype.itemsize if self._vector(origin) else source.row_nbytes
        return Extent(whole.path, whole.offset + origin.start * unit, info.nbytes)

    def spans(self, name: str, nbytes: int) -> Iterator[tuple[int, int]]:
        """Cuts where the rows before lie wholly before the rows after in the GGUF too, as whole heads do."""
        info, origin = self[name], self.origins[name]
        source = self.source[origin.tensors[0]]
        step = max(1, nbytes // max(1, info.row_nbytes))
        if origin.transposed:
            block = source.dtype.block if isinstance(source.dtype, GGMLType) else 1
            step = -(-step // block) * block
        elif self._vector(origin):
            step = max(1, info.rows)
        elif origin.order is not None:
            yield from _between(_closed(origin.order), step)
            return
        for start in range(0, info.rows, step):
            yield start, min(info.rows, start + step)

    def __str__(self) -> str:
        return str(self.source)


def floats(raw: Array, info: TensorInfo) -> Floats:
    """Rows of a GGUF's tensor as float32 (float64 stays)."""
    if isinstance(info.dtype, GGMLType):
        return dequantize(raw, info.dtype, info.columns)
    return widen(raw, info.dtype)


def _closed(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where ``order`` may be cut: all rows before are below all rows after. Its end is always one."""
    highest = np.maximum.accumulate(order)[:-1]
    lowest = np.minimum.accumulate(order[::-1])[::-1][1:]
    return np.append(np.flatnonzero(highest < lowest) + 1, len(order))


def _between(cuts: NDArray[np.int64], step: int) -> Iterator[tuple[int, int]]:
    """Row ranges of about ``step`` rows from cut to cut; of ``step`` where the next cut is more than twice as far."""
    start, last = 0, int(cuts[-1])
    while start < last:
        place = int(np.searchsorted(cuts, start + step, side="right")) - 1
        stop = int(cuts[place]) if place >= 0 else 0
        if stop <= start:
            following = int(cuts[place + 1])
            stop = following if following <= start + 2 * step else min(last, start + step)
        yield start, stop
        start = stop
