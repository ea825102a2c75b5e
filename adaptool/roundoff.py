"""What arithmetic may cost: the roundings a merge's recipe has, and the round-off of its float32 sums.

A sum of r products differs with the order it is summed in, by an error that grows as √r times the sum of their
magnitudes; and every BLAS, every GPU, has an order of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from adaptool.adapters.patches import Dora, LowRank, Patch, Truncate
from adaptool.merge import Merged
from adaptool.sampling import FLOAT32_NOISE
from adaptool.scales import low_rank_of
from adaptool.tensors.dtypes import Floats

FLOAT32_UNIT = 2.0**-24
"""float32's relative rounding error."""

SIGMAS = 6.0
"""Standard errors of a sum's round-off, as of independent roundings, that are allowed."""


def roundings(patches: Sequence[Patch], *, safe: bool) -> int:
    """How often these patches round an element on its way."""
    if any(isinstance(patch, Dora) for patch in patches[1:]):
        return 2 * len(patches) ** 2  # PEFT unmerges and merges again, to measure each norm
    return sum(_rounds_twice(patch, safe=safe) + 1 for patch in patches)


def _rounds_twice(patch: Patch, *, safe: bool) -> bool:
    return isinstance(patch, LowRank) and (patch.rounding == "twice" or (safe and patch.rounding == "asked"))


def exact_rows(merged: Merged, name: str, first: int, count: int) -> tuple[Floats, Floats]:
    """``Merged.exact`` for matrix rows of any number of experts."""
    parts = [merged.exact(name, start, stop - start) for start, stop in _within_matrices(merged, name, first, count)]
    values, largest = (np.concatenate(part) for part in zip(*parts, strict=True))
    return values, largest


def round_off(merged: Merged, name: str, first: int, count: int, largest: Floats) -> Floats:
    """How far float32 arithmetic may leave each element of these rows from the exact merge, before any rounding.

    ``largest`` is the greatest magnitude an element went through, (count, width).
    """
    patches = merged.plan.patches[name]
    if any(isinstance(patch, Truncate) for patch in patches):
        return np.broadcast_to(FLOAT32_NOISE * largest.max(axis=-1, keepdims=True), largest.shape)
    result = FLOAT32_NOISE * largest if any(isinstance(p, Dora) for p in patches) else np.zeros_like(largest)
    for patch in filter(None, map(low_rank_of, patches)):
        parts = [_terms(patch, merged, name, *cut) for cut in _within_matrices(merged, name, first, count)]
        result += SIGMAS * math.sqrt(patch.factors[0].rank) * FLOAT32_UNIT * np.concatenate(parts)
    return result


def _terms(patch: LowRank, merged: Merged, name: str, start: int, stop: int) -> Floats:
    """|s|·Σ|b·a| of rows within one matrix."""
    height = merged.layout(name).height
    expert, row = divmod(start, height)
    left, right = patch.factors[expert if patch.by_expert else 0].load("float32")
    terms: Floats = np.abs(left[row : row + stop - start]) @ np.abs(right) * abs(patch.scale)
    return terms


def _within_matrices(merged: Merged, name: str, first: int, count: int) -> Iterator[tuple[int, int]]:
    """The row ranges of ``first`` …, cut where one expert ends and the next begins."""
    height, stop = max(1, merged.layout(name).height), first + count
    while first < stop:
        edge = min(stop, first - first % height + height)
        yield first, edge
        first = edge
