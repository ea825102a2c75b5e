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

from adaptool.adapters.patches import Dora, Patch, Truncate
from adaptool.merging.merged import Merged
from adaptool.merging.sampling import spacing
from adaptool.parity.compare import Pair, numbers, read_actual
from adaptool.parity.deltas import (
    CORNER,
    SAMPLE_ELEMENTS,
    SPECTRUM_ROWS,
    Sample,
    is_low_rank,
    is_transpose,
    merged_as,
    ratio,
    share_in_factors,
    take,
    take_first,
)
from adaptool.parity.judging import Judged
from adaptool.parity.scales import Excuse, Origins, excuses, low_rank_of
from adaptool.tensors.bnb import NF4RoundTrip
from adaptool.tensors.dtypes import F64
from adaptool.tensors.store import Store

EXPLAINED = 0.3
"""‖actual − predicted‖ / ‖D‖ below which a prediction is what happened; chance alone leaves 1."""

WELL_EXPLAINED = 0.02
"""The same, below which a better k is not worth looking for."""

LARGEST_SCALE, BISECTIONS = 1024.0, 20

SAME_SCALE = 0.03
"""Relative distance below which an estimated k is a known one."""

ROUGH_SHARE = 0.05
"""Of ‖Δ‖: what is off by more was not only computed coarsely."""

FEW_SHARE = 0.01
"""Of a tensor's elements: fewer wrong ones are damage, and the rest is the merge."""

OWN_SHARE = 0.8
"""Of ‖D‖² in the factors' own row space; rounding noise takes some of it out."""

MOST_ADAPTERS = 8
"""Of how many adapters each is tried as the one left out."""

NOT_APPLIED, TWICE, FLIPPED, SCALED = "not applied", "applied twice", "sign flipped", "scaled"
NO_MAGNITUDE, NOT_TRUNCATED, LEFT_OUT = "DoRA magnitude ignored", "KaSA truncation ignored", "an adapter left out"
TRANSPOSED, EXTRA, OTHER, UNRELATED = "transposed", "something added", "another adapter", "unrelated"
NOT_REPLACED, DIFFERS, NOT_FINITE, ROUGH = "not replaced", "differs", "not finite", "imprecise"
BASE = "base differs"
SWAPPED, OWN, SOME_ROWS, FEW = "update transposed", "another formula", "some rows", "some elements"
SCALES = (SCALED, TWICE, FLIPPED)
"""Kinds that are one kind at different k."""


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
    if judged.strayed <= FEW_SHARE * judged.elements and not judged.drifts:
        return Finding(FEW, 1.0)
    worst_row = judged.place[0] if judged.place is not None else None
    sample = take(merged, actual, pair, worst_row)
    moved, update = sample.moved, sample.update
    if not moved.any():
        return Finding(NOT_APPLIED, 0.0)
    cosine = ratio(float(np.vdot(moved, update)), np.linalg.norm(moved) * np.linalg.norm(update))
    scaled = _along(sample, patches, origins)
    explained = [scaled]
    if scaled.residual is None or scaled.residual > WELL_EXPLAINED:
        for variant, instead in variants(patches, origins):
            residual = sample.unexplained(merged_as(merged, pair, instead, worst_row))
            explained.append(replace(variant, residual=residual))
    best = min(explained, key=lambda finding: finding.residual or 0.0)
    if (best.residual or 0.0) <= EXPLAINED and (best.kind != ROUGH or _is_rough(sample)):
        return replace(best, cosine=cosine)
    if rows := _untouched_rows(sample, judged):
        return Finding(SOME_ROWS, None, cosine, reasons=(rows,))
    if turned := _transposed_kind(merged, actual, pair):
        return Finding(turned, None, cosine)
    return _unexplained(merged, actual, pair, replace(scaled, cosine=cosine))


def _is_rough(sample: Sample) -> bool:
    """Whether what is off is no more than coarse arithmetic leaves: a step of the type, a little of the update."""
    away = sample.actual - sample.rounded(sample.exact)
    steps = spacing(np.maximum(np.abs(sample.base), np.abs(sample.exact)), sample.kind)
    return bool(np.linalg.norm(away) <= np.linalg.norm(steps) + ROUGH_SHARE * np.linalg.norm(sample.update))


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
    return Finding(kind_of(k), float(f"{k:.4g}"), None, residual, tuple(dict.fromkeys(same)))


def kind_of(k: float) -> str:
    """What an update at the scale ``k`` is called."""
    for value, kind in ((0.0, NOT_APPLIED), (1.0, ROUGH), (2.0, TWICE), (-1.0, FLIPPED)):
        if abs(k - value) <= SAME_SCALE:
            return kind
    return SCALED


def _estimate(sample: Sample) -> float:
    """k with <round(W + k·Δ) − W, Δ> = <D, Δ>: the regression <D,Δ>/<Δ,Δ> without what rounding does to it."""
    base, update = sample.base, sample.update
    energy, target = float(np.vdot(update, update)), float(np.vdot(sample.moved, update))
    if energy == 0.0 or target == 0.0:
        return 0.0
    plain = target / energy
    if sample.unexplained(base + plain * update) <= WELL_EXPLAINED:
        return plain
    sign = math.copysign(1.0, target)

    def reaches(k: float) -> bool:
        return sign * float(np.vdot(sample.rounded(base + sign * k * update) - base, update)) >= sign * target

    low, high = 0.0, 1.0
    while high < LARGEST_SCALE and not reaches(high):
        low, high = high, 2 * high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return sign * (low + high) / 2


def variants(patches: Sequence[Patch], origins: Origins) -> Iterator[tuple[Finding, list[Patch]]]:
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


def _untouched_rows(sample: Sample, judged: Judged) -> str:
    """The rows that are the base's still, where every sampled row is either that or right: part of a fused weight."""
    still = ~sample.moved.any(axis=1)
    right = np.linalg.norm(sample.actual - sample.rounded(sample.exact), axis=1) <= EXPLAINED * np.linalg.norm(
        sample.rounded(sample.exact) - sample.base, axis=1
    )
    if not still.any() or still.all() or not (still | right).all() or judged.wrong_rows is None:
        return ""
    return f"rows {judged.wrong_rows[0]} to {judged.wrong_rows[1]} are the base's"


def _transposed_kind(merged: Merged, actual: Store, pair: Pair) -> str:
    """Whether a square tensor was saved transposed, or its update added so; "" for neither."""
    shape = merged[pair.expected].shape
    if len(shape) != 2 or shape[0] != shape[1] or any(p.whole for p in merged.plan.patches[pair.expected]):
        return ""
    corner = take_first(merged, actual, pair, CORNER)
    size = min(corner.base.shape)
    base, update, found = (part[:size, :size] for part in (corner.base, corner.update, corner.actual))
    square = Sample(base, base + update.T, found, corner.kind)
    if square.unexplained(square.exact) <= EXPLAINED:
        return SWAPPED
    return TRANSPOSED if is_transpose(merged, actual, pair) else ""


def _unexplained(merged: Merged, actual: Store, pair: Pair, scaled: Finding) -> Finding:
    """Something else: other weights below, another formula, another low-rank update, alone or on top, or neither."""
    patches = merged.plan.patches[pair.expected]
    for words, other in _other_bases(merged, pair.expected):
        there = _along(take(other, actual, pair), patches, ())
        if (there.residual or 0.0) <= EXPLAINED and there.kind == ROUGH:
            return replace(scaled, kind=BASE, k=there.k, residual=there.residual, reasons=(words,))
    sample = take_first(merged, actual, pair, SPECTRUM_ROWS)
    on_top = scaled.k is not None and abs(scaled.k - 1) < 0.25 and (scaled.cosine or 0.0) > 0.5
    rest = sample.actual - sample.exact if on_top else sample.moved
    if share_in_factors(rest, patches) >= OWN_SHARE:
        return replace(scaled, kind=OWN, k=None, reasons=())
    rank = max((found.factors[0].rank for patch in patches if (found := low_rank_of(patch))), default=8)
    if is_low_rank(rest, rank):
        return replace(scaled, kind=EXTRA if on_top else OTHER, k=scaled.k if on_top else None, reasons=())
    return replace(scaled, kind=BASE if on_top else UNRELATED, k=scaled.k if on_top else None, reasons=())


def _other_bases(merged: Merged, name: str) -> Iterator[tuple[str, Merged]]:
    """The same merge onto what else a base is taken for: its NF4 round trip, or the weights before it."""
    base = merged.plan.base
    stores: list[tuple[str, Store]] = []
    if isinstance(base.store, NF4RoundTrip):
        stores = [("merged onto the base itself, not its NF4 round trip", base.store.source)]
    elif name in base.store and len(base.store[name].shape) == 2 and base.store[name].dtype != F64:
        words = "merged onto its NF4 round trip, which --onto-nf4 checks"
        stores = [(words, NF4RoundTrip(base.store, {name})),
                  (f"{words} with --double-quant", NF4RoundTrip(base.store, {name}, double_quant=True))]  # fmt: skip
    for reason, store in stores:
        yield reason, replace(merged, plan=replace(merged.plan, base=replace(base, store=store)))


def _of_whole_tensor(merged: Merged, actual: Store, pair: Pair, judged: Judged) -> Finding:
    """A tensor copied or replaced whole: whether it is the base's still, else how far from the base's it is."""
    name, store = pair.expected, merged.plan.base.store
    if name not in store or store[name].shape != merged[name].shape:
        return Finding(DIFFERS)
    row = judged.place[0] if judged.place is not None else pair.expected_row
    stop = min(pair.expected_row + pair.rows, row + max(1, SAMPLE_ELEMENTS // max(1, store[name].columns)))
    base = numbers(store.read(name, row, stop), store[name].dtype)
    found = numbers(read_actual(pair, actual, row, stop), actual[pair.actual].dtype)
    away = ratio(np.linalg.norm(found - base), np.linalg.norm(base))
    if away and is_transpose(merged, actual, pair):
        return Finding(TRANSPOSED, residual=away)
    return Finding(NOT_REPLACED, 0.0) if name in merged.changed and away == 0 else Finding(DIFFERS, residual=away)
