"""Comparing two stores: tensor against tensor, a block of rows at a time, whatever their sharding and types.

Memory is a few blocks, results come tensor by tensor, and no number depends on the workers: the blocks of a
tensor are measured in any order and added up in theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from adaptool.jobs import default_workers, run
from adaptool.tensors.dtypes import Array, DType, Floats, widen
from adaptool.tensors.store import Store

BLOCK_BYTES = 1 << 19
"""Of the expected tensor: small enough that a worker's float64 temporaries stay within some tens of MiB."""

Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class Pair:
    """Rows of a tensor of one store that should equal rows of a tensor of another.

    Mostly whole tensors; a mixture of experts may be one tensor per layer here and one per expert there.
    """

    expected: str
    actual: str
    rows: int
    expected_row: int = 0
    actual_row: int = 0


@dataclass(frozen=True, slots=True)
class Measured(Generic[Part]):
    """One block is measured: its bytes, and the pair with all its parts in order where it was the pair's last."""

    nbytes: int
    pair: Pair | None
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """How far a tensor is from the one it should equal; every number is over all its elements."""

    pair: Pair
    elements: int
    unequal: int
    """Elements of another value; NaN equals NaN."""
    largest: float
    """max |actual − expected|."""
    norm: float
    """‖actual − expected‖_F."""
    expected_norm: float
    """‖expected‖_F."""


def measure_pairs(
    pairs: Sequence[Pair], expected: Store, measure: Callable[[Pair, int, int], Part], workers: int
) -> Iterator[Measured[Part]]:
    """Measure every block of every pair: ``measure(pair, start, stop)`` gets rows of the expected tensor.

    Runs on ``workers`` threads; blocks are cut where ``expected`` likes to be cut.
    """
    held: dict[int, list[tuple[int, Part]]] = {}
    missing: dict[int, int] = {}

    def blocks() -> Iterator[tuple[int, int, int]]:
        for number, pair in enumerate(pairs):
            spans = list(_spans(pair, expected))
            held[number], missing[number] = [], len(spans)
            yield from ((number, start, stop) for start, stop in spans)

    def one(block: tuple[int, int, int]) -> tuple[int, int, int, Part]:
        number, start, stop = block
        return number, start, stop, measure(pairs[number], start, stop)

    for number, start, stop, part in run(one, blocks(), workers):
        pair = pairs[number]
        held[number].append((start, part))
        missing[number] -= 1
        nbytes = (stop - start) * expected[pair.expected].row_nbytes
        if missing[number]:
            yield Measured(nbytes, None)
            continue
        del missing[number]
        yield Measured(nbytes, pair, tuple(part for _, part in sorted(held.pop(number), key=lambda item: item[0])))


def _spans(pair: Pair, expected: Store) -> Iterator[tuple[int, int]]:
    """The store's own cuts, within the pair's rows; an empty tensor is one empty block."""
    first, last = pair.expected_row, pair.expected_row + pair.rows
    if not pair.rows:
        yield first, first
    for start, stop in expected.spans(pair.expected, BLOCK_BYTES):
        if start < last and stop > first:
            yield max(start, first), min(stop, last)


def read_actual(pair: Pair, actual: Store, start: int, stop: int) -> Array:
    """The rows that should equal rows ``start:stop`` of the expected tensor."""
    shift = pair.actual_row - pair.expected_row
    return actual.read(pair.actual, start + shift, stop + shift)


def numbers(raw: Array, kind: DType) -> Floats:
    """Stored values as float64: of float types exactly, of integers below 2⁵³ too."""
    values: Floats = np.asarray(widen(raw, kind) if kind.floating else raw, np.float64)
    return values


def distances(expected: Floats, actual: Floats) -> Floats:
    """|actual − expected|: 0 between equal infinities and between NaNs, NaN where only one of them is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        away: Floats = np.abs(actual - expected)
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    away[same] = 0.0
    away[~same & ~np.isfinite(away)] = np.nan
    return away


def same_names(expected: Store, actual: Store) -> Iterator[Pair]:
    """The tensors both stores have, by name and with the same shape."""
    return (
        Pair(name, name, info.rows)
        for name, info in expected.infos.items()
        if name in actual and actual[name].shape == info.shape
    )


def compare(
    expected: Store, actual: Store, pairs: Iterable[Pair] | None = None, *, workers: int | None = None
) -> Iterator[Difference]:
    """How each tensor of ``actual`` differs from its counterpart, as each is finished; types may differ.

    ``pairs`` defaults to equal names and shapes.
    """
    chosen = list(same_names(expected, actual) if pairs is None else pairs)

    def measure(pair: Pair, start: int, stop: int) -> tuple[int, int, float, float, float]:
        kinds = expected[pair.expected].dtype, actual[pair.actual].dtype
        values = numbers(expected.read(pair.expected, start, stop), kinds[0])
        away = distances(values, numbers(read_actual(pair, actual, start, stop), kinds[1]))
        largest = float(away.max(initial=0.0))
        return (
            away.size,
            int(np.count_nonzero(away)),
            largest,
            float(np.vdot(away, away)),
            float(np.vdot(values, values)),
        )

    for done in measure_pairs(chosen, expected, measure, workers or default_workers()):
        if done.pair is not None:
            elements, unequal, largest, squares, total = zip(*done.parts, strict=True)
            worst = math.nan if any(math.isnan(value) for value in largest) else max(largest)
            yield Difference(
                done.pair, sum(elements), sum(unequal), worst, math.sqrt(sum(squares)), math.sqrt(sum(total))
            )
