"""Blocks and tiles: how a tensor is cut for a merge, the same way whatever the workers and buffers.

A *row* here is a slice of the tensor along its first axis (of one expert, where it holds several): what
one row of B makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from adaptool.tensors.dtypes import Array, DType

TILE_ELEMENTS = 128 * 1024
"""Elements of a tile: its float32 delta (512 KiB) stays in the second-level cache."""

LEAST_ROWS = 16
"""A tile of wide rows has at least these: BLAS sums a matrix of one or two rows in another order."""


@dataclass(frozen=True, slots=True)
class Block:
    """Whole tiles of one tensor on their way from base to merged, in storage bits, changed in place."""

    raw: Array
    """(rows, width), C-contiguous."""
    kind: DType
    start: int
    """Absolute index of the first row; the cut into tiles is absolute too, so results never depend on the block."""
    height: int
    """Rows of the matrix the tiles cut: of the tensor, or of one expert in it."""
    base: Callable[[int, int], Array]
    """Any rows (start, stop) of the unmerged tensor, shape (stop − start, width)."""

    @property
    def stop(self) -> int:
        """One past the last row."""
        return self.start + self.raw.shape[0]

    def tiles(self) -> Iterator[tuple[int, int]]:
        """Absolute (start, stop) of each tile in the block."""
        row = self.start
        while row < self.stop:
            edge = tile_stop(row, self.height, self.raw.shape[1])
            yield row, edge
            row = edge

    def rows(self, start: int, stop: int) -> Array:
        """The storage bits of absolute rows: a view."""
        return self.raw[start - self.start : stop - self.start]


def tile_rows(height: int, width: int) -> int:
    """Rows in a tile of a matrix of ``height`` × ``width``."""
    return min(height, max(LEAST_ROWS, TILE_ELEMENTS // max(1, width))) or 1


def tile_stop(row: int, height: int, width: int) -> int:
    """The end of the tile that begins at ``row``: at a multiple of the tile height within its matrix.

    A short rest joins the tile before it, so that no tile has a row or two.
    """
    step = tile_rows(height, width)
    origin = row - row % height
    edge = row + step
    end = origin + height
    return end if edge + step > end else edge
