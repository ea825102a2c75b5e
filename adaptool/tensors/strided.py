"""Rows of a tensor whose elements do not lie in order: a transposed, sliced or expanded view of a storage.

Only pieces of bounded size are read, so a transposed matrix larger than memory comes out by rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import as_strided

from adaptool.tensors.dtypes import Array
from adaptool.tensors.files import FileHandle

PIECE_LIMIT = 1 << 20
"""Bytes read at once where the wanted elements lie among others."""

Shape = tuple[int, ...]


def is_contiguous(shape: Shape, strides: Shape) -> bool:
    """Whether elements lie in order without gaps; an axis of one element may have any stride."""
    expected = 1
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length > 1 and stride != expected:
            return False
        expected *= length
    return True


def reach(shape: Shape, strides: Shape) -> int:
    """Elements from the first to the last, both counted; 0 for an empty tensor."""
    if 0 in shape:
        return 0
    return 1 + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))


def read_rows(handle: FileHandle, base: int, shape: Shape, strides: Shape, rows: range, out: Array) -> None:
    """Fill ``out``, shape (len(rows), shape[-1]), with rows of the tensor whose first element is at byte ``base``.

    Strides are in elements and not negative; the caller has checked that all of it lies in the file.
    """
    filled = 0
    for start, lead in _boxes(shape[:-1], strides[:-1], rows.start, rows.stop):
        count = math.prod(lead)
        box = (*lead, shape[-1])
        target = out[filled : filled + count].reshape(box)
        _gather(handle, base + start * out.itemsize, strides[len(shape) - len(box) :], target)
        filled += count


def _boxes(shape: Shape, strides: Shape, start: int, stop: int) -> Iterator[tuple[int, Shape]]:
    """Consecutive rows of leading axes as few boxes, each its first element and its shape over the last axes."""
    if start >= stop:
        return
    if not shape:
        yield 0, ()
        return
    inner = math.prod(shape[1:])
    first, last = -(-start // inner), stop // inner
    if first > last:
        yield from _inside(shape, strides, last, start - last * inner, stop - last * inner)
        return
    if start < first * inner:
        yield from _inside(shape, strides, first - 1, start - (first - 1) * inner, inner)
    if first < last:
        yield first * strides[0], (last - first, *shape[1:])
    yield from _inside(shape, strides, last, 0, stop - last * inner)


def _inside(shape: Shape, strides: Shape, index: int, start: int, stop: int) -> Iterator[tuple[int, Shape]]:
    for offset, box in _boxes(shape[1:], strides[1:], start, stop):
        yield index * strides[0] + offset, box


def _gather(handle: FileHandle, base: int, strides: Shape, out: Array) -> None:
    """Fill ``out`` from the elements at ``base``, halving its widest axis until what lies between is small."""
    span = reach(out.shape, strides)
    steps = [stride if length > 1 else 0 for length, stride in zip(out.shape, strides, strict=True)]
    if span * out.itemsize <= PIECE_LIMIT:
        piece = np.empty(span, out.dtype)
        handle.read_into(piece, base)
        out[...] = as_strided(piece, out.shape, [step * out.itemsize for step in steps])
        return
    axis = steps.index(max(steps))
    half = out.shape[axis] // 2
    before = (slice(None),) * axis
    _gather(handle, base, strides, out[(*before, slice(half))])
    _gather(handle, base + half * strides[axis] * out.itemsize, strides, out[(*before, slice(half, None))])
