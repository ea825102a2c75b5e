"""What arithmetic may cost: the roundings a merge's recipe has, and the round-off of its float32 sums.

A sum of r products differs with the order it is summed in, by an error that grows as √r times the size of a partial
sum, √Σ(b·a)²; and every BLAS, every GPU, has an order of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from adaptool.adapters.patches import Dora, LowRank, Patch, Truncate
from adaptool.merging.merged import Merged
from adaptool.merging.sampling import FLOAT32_NOISE, MANTISSA_BITS
from adaptool.parity.scales import low_rank_of
from adaptool.tensors.dtypes import Floats

FLOAT32_UNIT = 2.0**-24
"""float32's relative rounding error."""

SIGMAS = 6.0
"""Standard errors of a sum's round-off, as of independent roundings, that are allowed."""

COARSE_SIGMAS = 8.0
"""The same for factors, their product and its scaling each rounded to 16 bits."""


def roundings(patches: Sequence[Patch], *, safe: bool) -> int:
    """How often these patches round an element on its way."""
    if any(isinstance(patch, Dora) for patch in patches[1:]):
        return 2 * len(patches) ** 2  # PEFT unmerges and merges again, to measure each norm
    return sum(_rounds_twice(patch, safe=safe) + 1 for patch in patches)


def _rounds_twice(patch: Patch, *, safe: bool) -> bool:
    return isinstance(patch, LowRank) and (patch.rounding == "twice" or (safe and patch.rounding == "asked"))


def exact_rows(merged: Merged, name: str, first: int, count: int) -> tuple[Floats, Floats]:
    """``Merged.exact`` for matrix rows of any number of experts."""
    parts = [merged.exact(name, start, stop - start) for start, stop in within_matrices(merged, name, first, count)]
    values, largest = (np.concatenate(part) for part in zip(*parts, strict=True))
    return values, largest


def round_off(merged: Merged, name: str, first: int, count: int, largest: Floats) -> tuple[Floats, Floats]:
    """How far arithmetic may leave each element of these rows from the exact merge, before it is rounded.

    First in float32, as the merge is meant; then in the base's own type, where that is a 16-bit one: a script that
    keeps the factors in it, as GPUs like them, rounds each of them first. ``largest`` is the greatest magnitude an
    element went through, (count, width).
    """
    patches, kind = merged.plan.patches[name], merged[name].dtype
    fine = FLOAT32_NOISE * largest if any(isinstance(p, Dora) for p in patches) else np.zeros_like(largest)
    coarse = fine.copy()
    if any(isinstance(patch, Truncate) for patch in patches):
        fine += FLOAT32_NOISE * largest.max(axis=-1, keepdims=True)
    for patch in filter(None, map(low_rank_of, patches)):
        parts = [_terms(patch, merged, name, *cut) for cut in within_matrices(merged, name, first, count)]
        terms = np.concatenate(parts)
        fine += SIGMAS * math.sqrt(patch.factors[0].rank) * FLOAT32_UNIT * terms
        coarse += COARSE_SIGMAS * 2.0 ** -MANTISSA_BITS[kind.name] * terms if kind.bits == 16 else 0.0
    return fine, fine + coarse


def _terms(patch: LowRank, merged: Merged, name: str, start: int, stop: int) -> Floats:
    """|s|·√Σ(b·a)² of rows within one matrix: what the sum's round-off is proportional to."""
    height = merged.layout(name).height
    expert, row = divmod(start, height)
    left, right = patch.factors[expert if patch.by_expert else 0].load("float32")
    terms: Floats = np.sqrt(np.square(left[row : row + stop - start]) @ np.square(right)) * abs(patch.scale)
    return terms


def within_matrices(merged: Merged, name: str, first: int, count: int) -> Iterator[tuple[int, int]]:
    """The row ranges of ``first`` …, cut where one expert ends and the next begins."""
    height, stop = max(1, merged.layout(name).height), first + count
    while first < stop:
        edge = min(stop, first - first % height + height)
        yield first, edge
        first = edge
