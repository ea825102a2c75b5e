"""A checkpoint as the tensors of a GGUF: renamed, rows in ggml's order, in the types a converter would write.

A view like any other: nothing is read until a writer asks for rows, and it asks for a few at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from adaptool.archs.gguf.placed import Placed
from adaptool.errors import FormatError, UnsupportedError
from adaptool.tensors.dtypes import BF16, F16, F32, Array, DType, narrow, widen
from adaptool.tensors.store import Extent, Store, TensorInfo, into

FLOAT32_TENSORS = ("ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight", "position_embd.weight", "token_types.weight")
"""Small matrices the runtime wants in float32: routers, positions and token types."""


def converter_dtype(name: str, axes: int, kind: DType) -> DType:
    """The type a converter gives a tensor of type ``kind``: vectors, norms and routers are float32."""
    leaf = name.split(".", 2)[-1] if name.startswith("blk.") else name
    if axes <= 1 or name.endswith("_norm.weight") or not name.endswith(".weight") or leaf in FLOAT32_TENSORS:
        return F32
    return kind if kind in (F16, BF16) else F32


@dataclass(frozen=True, eq=False)
class Converted(Store):
    """``source`` with its tensors where ``placed`` says, preceded by ``extras`` (computed tensors, float32)."""

    source: Store
    placed: Sequence[Placed]
    extras: Mapping[str, NDArray[np.float32]]
    float_type: DType | None = None
    """What matrices are rounded to; None keeps each one's own 16-bit type."""

    @cached_property
    def by_name(self) -> Mapping[str, Placed]:
        """What each tensor is made of."""
        return {placed.name: placed for placed in self.placed}

    @cached_property
    def infos(self) -> Mapping[str, TensorInfo]:
        computed = {name: TensorInfo(name, F32, values.shape) for name, values in self.extras.items()}
        return computed | {placed.name: self._info(placed) for placed in self.placed}

    def _info(self, placed: Placed) -> TensorInfo:
        kind = self._source_dtype(placed)
        if not kind.mergeable:
            raise UnsupportedError(f"{self.source}: {placed.sources[0]} is {kind}, which cannot be converted")
        target = converter_dtype(placed.name, len(placed.shape), self.float_type or kind)
        return TensorInfo(placed.name, target, placed.shape)

    def _source_dtype(self, placed: Placed) -> DType:
        kinds = {self.source[name].dtype for name in placed.sources}
        if len(kinds) > 1:
            raise FormatError(f"{self.source}: the parts of {placed.name} are of several types")
        return kinds.pop()

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Array | None = None) -> Array:
        info, start, stop = self.span(name, start, stop)
        if name in self.extras:
            return into(out, self.extras[name].reshape(info.rows, -1)[start:stop])
        placed = self.by_name[name]
        if self._as_stored(placed):
            return self._gathered(placed, start, stop, out)
        kind = self._source_dtype(placed)
        values = widen(self._gathered(placed, start, stop, None), kind)
        if placed.shift:
            values = values + np.float32(placed.shift)
        if placed.shift and kind == F16:  # converters add in float16, and in float32 for all else
            values = widen(narrow(values, kind), kind)
        return into(out, narrow(values, info.dtype))

    def _as_stored(self, placed: Placed) -> bool:
        return not placed.shift and self[placed.name].dtype == self._source_dtype(placed)

    def _gathered(self, placed: Placed, start: int, stop: int, out: Array | None) -> Array:
        """Rows ``start:stop`` of the result, in the sources' type."""
        columns = self[placed.name].columns
        if placed.transposed:
            return into(out, np.ascontiguousarray(self.source.read(placed.sources[0])[:, start:stop].T))
        if placed.order is not None and len(placed.shape) == 1:  # a vector is one row: it is its elements that move
            whole = np.concatenate([self.source.read(name).reshape(-1) for name in placed.sources])
            return into(out, whole[placed.order].reshape(1, -1))
        if self.source[placed.sources[0]].columns != columns:  # a reshape: (n, 1) or (1, n) as a vector
            return into(out, self._sequence(placed, 0, self._source_rows(placed)).reshape(-1, columns)[start:stop])
        if out is None:
            out = np.empty((stop - start, columns), self._source_dtype(placed).storage)
        if placed.order is None:
            return self._sequence(placed, start, stop, out)
        return self._ordered(placed, placed.order[start:stop], out)

    def _ordered(self, placed: Placed, wanted: NDArray[np.int64], out: Array) -> Array:
        """The rows ``wanted`` of the sources: taken from one read where they lie close, else run by run."""
        if not len(wanted):
            return out
        low, high = int(wanted.min()), int(wanted.max()) + 1
        if high - low <= 2 * len(wanted):
            return np.take(self._sequence(placed, low, high), wanted - low, axis=0, out=out)
        runs = np.flatnonzero(np.diff(wanted) != 1) + 1
        for first, last in zip((0, *runs), (*runs, len(wanted)), strict=True):
            self._sequence(placed, int(wanted[first]), int(wanted[last - 1]) + 1, out[first:last])
        return out

    def _source_rows(self, placed: Placed) -> int:
        return sum(self.source[name].rows for name in placed.sources)

    def _sequence(self, placed: Placed, start: int, stop: int, out: Array | None = None) -> Array:
        """Rows ``start:stop`` of the sources laid one after another."""
        if len(placed.sources) == 1:
            return self.source.read(placed.sources[0], start, stop, out)
        first = self.source[placed.sources[0]]
        if out is None:
            out = np.empty((stop - start, first.columns), first.dtype.storage)
        at = 0
        for name in placed.sources:
            rows = self.source[name].rows
            low, high = max(start, at), min(stop, at + rows)
            if low < high:
                self.source.read(name, low - at, high - at, out[low - start : high - start])
            at += rows
        return out

    def extent(self, name: str) -> Extent | None:
        placed = self.by_name.get(name)
        if placed is None or not placed.unchanged or not self._as_stored(placed):
            return None
        return self.source.extent(placed.sources[0])

    def spans(self, name: str, nbytes: int) -> Iterator[tuple[int, int]]:
        placed = self.by_name.get(name)
        if placed is not None and placed.transposed:
            yield 0, self[name].rows
        elif placed is not None and placed.unchanged and self.source[placed.sources[0]].columns == self[name].columns:
            yield from self.source.spans(placed.sources[0], nbytes)
        else:
            yield from super().spans(name, nbytes)

    @property
    def transforms(self) -> bool:
        return True

    def __str__(self) -> str:
        return str(self.source)
