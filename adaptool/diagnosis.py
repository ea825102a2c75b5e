"""Naming what is wrong with one tensor: what was done to it instead of the merge.

D = merged − base is held against Δ, what the merge should have added. Both are of a sample of rows, in float64, with Δ
unrounded: where updates are smaller than a step of the type a rounded Δ is mostly zero, and <D,Δ>/<Δ,Δ> says nothing.
So a scale k is judged by what round(W + k·Δ) would leave, and the k that leaves what is there is the one applied.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from adaptool.adapters.patches import Dora, LowRank, Patch, Truncate
from adaptool.compare import Pair, numbers, read_actual
from adaptool.judging import Judged
from adaptool.merge import Merged
from adaptool.roundoff import exact_rows
from adaptool.scales import Excuse, Origins, excuses
from adaptool.tensors.dtypes import DType, Floats, narrow, widen
from adaptool.tensors.store import Store

SAMPLE_ELEMENTS = 1 << 15
"""Of a tensor: enough for k to a few per cent even where one element in ten moved."""

RUNS = 8
"""Places of a tensor that a sample is taken from."""

EXPLAINED = 0.3
"""‖actual − predicted‖ / ‖D‖ below which a prediction is what happened; chance alone leaves 1."""

SAME_SCALE = 0.03
"""Relative distance below which an estimated k is a known one."""

CORNER = 128
"""Rows and columns that are looked at to recognise a transpose."""

TRANSPOSE_NOISE = 2.0**-6
"""Relative error that roundings of 16-bit types leave between equal matrices, generously."""

SPECTRUM_ROWS = 192
"""Rows whose singular values tell a low-rank update from noise."""

LOW_RANK_TAIL = 0.75
"""Energy beyond the first 2·r directions, relative to shuffled numbers': 1 for noise, 0 for rank r exactly."""

MOST_ADAPTERS = 8
"""Of how many adapters each is tried as the one left out."""

NOT_APPLIED, TWICE, FLIPPED, SCALED = "not applied", "applied twice", "sign flipped", "scaled"
NO_MAGNITUDE, NOT_TRUNCATED, LEFT_OUT = "DoRA magnitude ignored", "KaSA truncation ignored", "an adapter left out"
TRANSPOSED, EXTRA, OTHER, UNRELATED = "transposed", "something added", "another adapter", "unrelated"
NOT_REPLACED, DIFFERS, NOT_FINITE, ROUGH = "not replaced", "differs", "not finite", "imprecise"


@dataclass(frozen=True, slots=True)
class Finding:
    """What happened to one tensor, by all its sample tells."""

    kind: str
    k: float | None = None
    """The scale at which the update is there; 1 is right."""
    cosine: float | None = None
    """Between D and Δ."""
    residual: float | None = None
    """‖what the finding does not explain‖ / ‖D‖."""
    reasons: tuple[str, ...] = ()
    """Mistakes that each would have done it."""


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
        return _ratio(np.linalg.norm(self.actual - self.rounded(values)), np.linalg.norm(self.moved))


def diagnose(merged: Merged, actual: Store, pair: Pair, judged: Judged, origins: Origins) -> Finding:
    """What is wrong with a tensor that was judged wrong."""
    if judged.nonfinite:
        return Finding(NOT_FINITE)
    name, kind = pair.expected, actual[pair.actual].dtype
    patches = merged.plan.patches.get(name, ())
    if not kind.mergeable:
        return Finding(DIFFERS)
    if not patches:
        return _of_whole_tensor(merged, actual, pair, judged)
    sample = take(merged, actual, pair, judged)
    moved, update = sample.moved, sample.update
    if not moved.any():
        return Finding(NOT_APPLIED, 0.0)
    cosine = _ratio(float(np.vdot(moved, update)), np.linalg.norm(moved) * np.linalg.norm(update))
    scaled = _along(sample, patches, origins)
    if scaled.residual is not None and scaled.residual <= EXPLAINED:
        return replace(scaled, cosine=cosine)
    for variant, instead in _variants(patches, origins):
        residual = sample.unexplained(_merged_as(merged, pair, instead, judged))
        if residual <= EXPLAINED:
            return replace(variant, cosine=cosine, residual=residual)
    if _is_transposed(merged, actual, pair):
        return Finding(TRANSPOSED, None, cosine)
    return _unexplained(merged, actual, pair, replace(scaled, cosine=cosine))


def take(merged: Merged, actual: Store, pair: Pair, judged: Judged | None = None) -> Sample:
    """Rows from all over a pair, and its worst one."""
    parts = []
    for first, count in _runs(merged, pair, judged):
        unit = merged.layout(pair.expected).unit
        start, stop = first * unit, (first + count) * unit
        base = numbers(merged.unmerged(pair.expected, start, stop), merged[pair.expected].dtype)
        exact, _ = exact_rows(merged, pair.expected, first, count)
        found = numbers(read_actual(pair, actual, start, stop), actual[pair.actual].dtype)
        parts.append((base.reshape(count, -1), exact.reshape(count, -1), found.reshape(count, -1)))
    base, exact, found = (np.concatenate(part) for part in zip(*parts, strict=True))
    finite = np.isfinite(base) & np.isfinite(exact) & np.isfinite(found)
    base, exact, found = (np.where(finite, part, 0.0) for part in (base, exact, found))
    return Sample(base, exact, found, actual[pair.actual].dtype)


def _runs(merged: Merged, pair: Pair, judged: Judged | None) -> Iterator[tuple[int, int]]:
    """(First, count) of matrix rows, in the layout the patches see."""
    layout = merged.layout(pair.expected)
    first, last = pair.expected_row // layout.unit, (pair.expected_row + pair.rows) // layout.unit
    if any(patch.whole for patch in merged.plan.patches[pair.expected]):
        yield first, last - first
        return
    count = max(1, SAMPLE_ELEMENTS // max(1, layout.width * RUNS))
    if (last - first) <= count * RUNS:
        yield first, last - first
        return
    step = (last - first) // RUNS
    yield from ((start, count) for start in range(first, first + step * RUNS, step))
    if judged is not None and judged.place is not None:
        yield judged.place[0] // layout.unit, 1


def _along(sample: Sample, patches: Sequence[Patch], origins: Origins) -> Finding:
    """The scale k at which round(W + k·Δ) comes nearest to what is there, and why it may be that one."""
    known = excuses(patches, origins)
    estimate = _estimate(sample)
    near = [excuse for excuse in known if abs(estimate - excuse.k) <= SAME_SCALE * max(abs(excuse.k), 0.1)]
    trials = [Excuse(estimate, ""), *(near or known)]
    residuals = [sample.unexplained(sample.base + excuse.k * sample.update) for excuse in trials]
    best = min(range(len(trials)), key=lambda i: (round(residuals[i], 2), not trials[i].words, i))
    k, residual = trials[best].k, residuals[best]
    same = [excuse.words for excuse in known if math.isclose(excuse.k, k, rel_tol=SAME_SCALE) and excuse.words]
    return Finding(_kind_of(k), float(f"{k:.4g}"), None, residual, tuple(dict.fromkeys(same)))


def _kind_of(k: float) -> str:
    for value, kind in ((0.0, NOT_APPLIED), (1.0, ROUGH), (2.0, TWICE), (-1.0, FLIPPED)):
        if abs(k - value) <= SAME_SCALE:
            return kind
    return SCALED


def _estimate(sample: Sample) -> float:
    """k with <round(W + k·Δ) − W, Δ> = <D, Δ>: the regression <D,Δ>/<Δ,Δ> without what rounding takes from it."""
    update = sample.update
    energy = float(np.vdot(update, update))
    target = float(np.vdot(sample.moved, update))
    if energy == 0.0:
        return 0.0
    k = target / energy
    for _ in range(6):
        reached = float(np.vdot(sample.rounded(sample.base + k * update) - sample.base, update))
        if abs(target - reached) <= 1e-4 * abs(target):
            break
        k += (target - reached) / energy
    return k


def _variants(patches: Sequence[Patch], origins: Origins) -> Iterator[tuple[Finding, list[Patch]]]:
    """What wrong merges apply in place of these patches, and what that is called."""
    if any(isinstance(patch, Dora) for patch in patches):
        plain = [patch.low_rank if isinstance(patch, Dora) else patch for patch in patches]
        yield Finding(NO_MAGNITUDE, reasons=("W + s·B@A without its rescaling",)), plain
        for excuse in excuses(patches, origins):
            if excuse.words:
                yield (
                    Finding(SCALED, excuse.k, reasons=(excuse.words,)),
                    [_rescaled(patch, excuse.k) for patch in patches],
                )
    if any(isinstance(patch, Truncate) for patch in patches):
        kept = [patch for patch in patches if not isinstance(patch, Truncate)]
        yield Finding(NOT_TRUNCATED, reasons=("the base was not truncated first",)), kept
    if 1 < len(patches) == len(origins) <= MOST_ADAPTERS:
        for number, (adapter, _) in enumerate(origins):
            rest = [patch for place, patch in enumerate(patches) if place != number]
            yield Finding(LEFT_OUT, reasons=(adapter.name,)), rest


def _rescaled(patch: Patch, k: float) -> Patch:
    if isinstance(patch, Dora):
        return replace(patch, low_rank=replace(patch.low_rank, scale=patch.low_rank.scale * k))
    return patch


def _merged_as(merged: Merged, pair: Pair, patches: Sequence[Patch], judged: Judged) -> Floats:
    parts = []
    layout = merged.layout(pair.expected)
    for first, count in _runs(merged, pair, judged):
        rows = merged.unmerged(pair.expected, first * layout.unit, (first + count) * layout.unit)
        block = merged.block(pair.expected, first, rows)
        values = numbers(block.raw, block.kind)
        for patch in patches:
            values = patch.exact(values, block)
        parts.append(values.reshape(count, -1))
    return np.concatenate(parts)


def _is_transposed(merged: Merged, actual: Store, pair: Pair) -> bool:
    """Whether a square update was added the other way round, or the whole tensor was saved so."""
    shape = merged[pair.expected].shape
    if len(shape) != 2 or shape[0] != shape[1] or any(p.whole for p in merged.plan.patches[pair.expected]):
        return False
    corner = take(merged, actual, replace(pair, rows=min(CORNER, pair.rows)))
    size = min(corner.base.shape)
    base, update, found = (part[:size, :size] for part in (corner.base, corner.update, corner.actual))
    square = Sample(base, base + update.T, found, corner.kind)
    whole = Sample(base, (base + update).T, found, corner.kind)
    return square.unexplained(square.exact) <= EXPLAINED or whole.unexplained(whole.exact) <= EXPLAINED


def is_transpose(merged: Merged, actual: Store, pair: Pair) -> bool:
    """Whether a tensor of the reversed shape is the merge's, transposed: by a corner of both."""
    ours, theirs = merged[pair.expected], actual[pair.actual]
    if len(ours.shape) != 2 or theirs.shape != ours.shape[::-1] or not theirs.dtype.mergeable:
        return False
    rows, columns = (min(CORNER, size) for size in ours.shape)
    expected = numbers(merged.read(pair.expected, 0, rows), ours.dtype)[:, :columns]
    found = numbers(actual.read(pair.actual, 0, columns), theirs.dtype)[:, :rows].T
    return _ratio(np.linalg.norm(found - expected), np.linalg.norm(expected)) < TRANSPOSE_NOISE


def _unexplained(merged: Merged, actual: Store, pair: Pair, scaled: Finding) -> Finding:
    """Something else: another low-rank update, alone or on top, or what no adapter does."""
    few = replace(pair, rows=min(pair.rows, SPECTRUM_ROWS * merged.layout(pair.expected).unit))
    sample = take(merged, actual, few)
    on_top = scaled.k is not None and abs(scaled.k - 1) < 0.25 and (scaled.cosine or 0.0) > 0.5
    rank = max((p.factors[0].rank for p in merged.plan.patches[pair.expected] if isinstance(p, LowRank)), default=8)
    rest = sample.actual - sample.exact if on_top else sample.moved
    if is_low_rank(rest, rank):
        return replace(scaled, kind=EXTRA if on_top else OTHER)
    return replace(scaled, kind=UNRELATED)


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
    return _ratio(squares[few:].sum(), squares.sum())


def _of_whole_tensor(merged: Merged, actual: Store, pair: Pair, judged: Judged) -> Finding:
    """A tensor copied or replaced whole: whether it is the base's still, else how far from the base's it is."""
    name, store = pair.expected, merged.plan.base.store
    if name not in store or store[name].shape != merged[name].shape:
        return Finding(DIFFERS)
    row = judged.place[0] if judged.place is not None else pair.expected_row
    stop = min(pair.expected_row + pair.rows, row + max(1, SAMPLE_ELEMENTS // max(1, store[name].columns)))
    base = numbers(store.read(name, row, stop), store[name].dtype)
    found = numbers(read_actual(pair, actual, row, stop), actual[pair.actual].dtype)
    away = _ratio(np.linalg.norm(found - base), np.linalg.norm(base))
    return Finding(NOT_REPLACED, 0.0) if name in merged.changed and away == 0 else Finding(DIFFERS, residual=away)


def _ratio(one: float | np.floating, other: float | np.floating) -> float:
    return float(one / other) if other else 0.0
