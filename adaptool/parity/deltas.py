"""D and Δ: what a checkpoint adds to the base against what the merge adds, on a sample of rows, in float64.

And what shape they have: low rank, made of an adapter's own factors, or another tensor transposed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from adaptool.adapters.patches import Patch
from adaptool.merging.merged import Merged
from adaptool.parity.compare import Pair, numbers, read_actual
from adaptool.parity.roundoff import within_matrices
from adaptool.parity.scales import low_rank_of
from adaptool.tensors.dtypes import DType, Floats, narrow, widen
from adaptool.tensors.store import Store

SAMPLE_ELEMENTS = 1 << 15
"""Of a tensor: enough for k to a few per cent even where one element in ten moved."""

RUNS = 8
"""Places of a tensor that a sample is taken from."""

CORNER = 128
"""Rows and columns that are looked at to recognise a transpose."""

TRANSPOSE_NOISE = 2.0**-6
"""Relative error that roundings of 16-bit types leave between equal matrices, generously."""

SPECTRUM_ROWS = 192
"""Rows whose singular values tell a low-rank update from noise."""

LOW_RANK_TAIL = 0.75
"""Energy beyond the first 2·r directions, relative to shuffled numbers': 1 for noise, 0 for rank r exactly."""


@dataclass(frozen=True)
class Sample:
    """Rows of one tensor: unmerged W, the exact merge, what is there; each (rows, columns) in float64."""

    base: Floats
    exact: Floats
    actual: Floats
    kind: DType

    @property
    def moved(self) -> Floats:
        """D."""
        return self.actual - self.base

    @property
    def update(self) -> Floats:
        """Δ."""
        return self.exact - self.base

    def rounded(self, values: Floats) -> Floats:
        """As the checkpoint would hold them."""
        with np.errstate(over="ignore"):
            return widen(narrow(values, self.kind), self.kind).astype(np.float64)

    def unexplained(self, values: Floats) -> float:
        """‖actual − values, rounded‖ / ‖D‖."""
        return ratio(np.linalg.norm(self.actual - self.rounded(values)), np.linalg.norm(self.moved))


def take(merged: Merged, actual: Store, pair: Pair, worst_row: int | None = None) -> Sample:
    """Rows from all over a pair, and its worst one."""
    return _sample(merged, actual, pair, _runs(merged, pair, worst_row))


def take_first(merged: Merged, actual: Store, pair: Pair, rows: int) -> Sample:
    """The first rows of a pair: a block, whose shape means something."""
    first, count = _extent(merged, pair)
    whole = any(patch.whole for patch in merged.plan.patches[pair.expected])
    count = count if whole else min(count, rows)
    return _sample(merged, actual, pair, within_matrices(merged, pair.expected, first, count))


def _sample(merged: Merged, actual: Store, pair: Pair, runs: Iterable[tuple[int, int]]) -> Sample:
    parts = []
    for first, stop_row in runs:
        unit, count = merged.layout(pair.expected).unit, stop_row - first
        start, stop = first * unit, stop_row * unit
        base = numbers(merged.unmerged(pair.expected, start, stop), merged[pair.expected].dtype)
        exact, _ = merged.exact(pair.expected, first, count)
        found = numbers(read_actual(pair, actual, start, stop), actual[pair.actual].dtype)
        parts.append((base.reshape(count, -1), exact.reshape(count, -1), found.reshape(count, -1)))
    base, exact, found = (np.concatenate(part) for part in zip(*parts, strict=True))
    finite = np.isfinite(base) & np.isfinite(exact) & np.isfinite(found)
    base, exact, found = (np.where(finite, part, 0.0) for part in (base, exact, found))
    return Sample(base, exact, found, actual[pair.actual].dtype)


def _runs(merged: Merged, pair: Pair, worst_row: int | None) -> Iterator[tuple[int, int]]:
    """(First, stop) of matrix rows, in the layout the patches see, never across two experts."""
    layout, (first, rows) = merged.layout(pair.expected), _extent(merged, pair)
    count = max(1, SAMPLE_ELEMENTS // max(1, layout.width * RUNS))
    if rows <= count * RUNS or any(patch.whole for patch in merged.plan.patches[pair.expected]):
        yield from within_matrices(merged, pair.expected, first, rows)
        return
    for start in range(first, first + rows // RUNS * RUNS, rows // RUNS):
        yield from within_matrices(merged, pair.expected, start, count)
    if worst_row is not None:
        yield worst_row // layout.unit, worst_row // layout.unit + 1


def _extent(merged: Merged, pair: Pair) -> tuple[int, int]:
    """A pair's first matrix row, and how many it has."""
    unit = merged.layout(pair.expected).unit
    return pair.expected_row // unit, pair.rows // unit


def merged_as(merged: Merged, pair: Pair, patches: Sequence[Patch], worst_row: int | None) -> Floats:
    """The rows of ``take`` as other patches would make them, exactly."""
    parts = []
    layout = merged.layout(pair.expected)
    for first, stop in _runs(merged, pair, worst_row):
        rows = merged.unmerged(pair.expected, first * layout.unit, stop * layout.unit)
        block = merged.block(pair.expected, first, rows)
        values = numbers(block.raw, block.kind)
        for patch in patches:
            values = patch.exact(values, block)
        parts.append(values.reshape(stop - first, -1))
    return np.concatenate(parts)


def is_transpose(merged: Merged, actual: Store, pair: Pair) -> bool:
    """Whether a tensor of the reversed shape is the merge's, transposed: by a corner of both."""
    ours, theirs = merged[pair.expected], actual[pair.actual]
    if len(ours.shape) != 2 or theirs.shape != ours.shape[::-1] or not theirs.dtype.mergeable:
        return False
    rows, columns = (min(CORNER, size) for size in ours.shape)
    expected = numbers(merged.read(pair.expected, 0, rows), ours.dtype)[:, :columns]
    found = numbers(actual.read(pair.actual, 0, columns), theirs.dtype)[:, :rows].T
    return ratio(np.linalg.norm(found - expected), np.linalg.norm(expected)) < TRANSPOSE_NOISE


def share_in_factors(moved: Floats, patches: Sequence[Patch]) -> float:
    """The share of ‖D‖² in the row space of these patches' own factors: near 1 if D is made of them."""
    low_rank = [found for patch in patches if (found := low_rank_of(patch))]
    if not low_rank or any(patch.by_expert for patch in low_rank):
        return 0.0
    rights = np.concatenate([patch.factors[0].load("float64")[1] for patch in low_rank])
    if rights.shape[0] > rights.shape[1] // 2:
        return 0.0  # they span too much to mean anything
    basis, _ = np.linalg.qr(rights.T)
    return ratio(np.sum(np.square(moved @ basis)), np.sum(np.square(moved)))


def is_low_rank(values: Floats, rank: int) -> bool:
    """Whether a matrix's energy sits in fewer directions than that of the same numbers shuffled."""
    matrix = values[:, : 4 * SPECTRUM_ROWS]
    few = max(1, min(2 * rank, min(matrix.shape) // 4))
    if min(matrix.shape) < 8 or not matrix.any():
        return False
    shuffled = np.random.default_rng(0).permutation(matrix.ravel()).reshape(matrix.shape)
    return _tail(matrix, few) <= LOW_RANK_TAIL * _tail(shuffled, few)


def _tail(matrix: Floats, few: int) -> float:
    """The share of ‖·‖² beyond the first ``few`` singular values."""
    squares = np.square(np.linalg.svd(matrix, compute_uv=False))
    return ratio(squares[few:].sum(), squares.sum())


def ratio(one: float | np.floating, other: float | np.floating) -> float:
    """one / other, and 0 where there is nothing to divide by."""
    return float(one / other) if other else 0.0
