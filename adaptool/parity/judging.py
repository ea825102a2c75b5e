"""Judging a block of a merged checkpoint: is it what this merge may give, bit for bit or but for a rounding?

The same merge has several faithful results: PEFT's two roundings, and, where the checkpoint has another type than
the base, a merge before or after the conversion. A block that is none of them bit for bit is held against the nearest.

Rounding alone cannot hide a defect. Where updates are smaller than a step of the type, as bf16 merges often have
them, a checkpoint without the update is within one rounding everywhere; but its errors all point against the
update, which rounding errors do not. So their drift along the update is measured too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from adaptool.errors import UnsupportedError
from adaptool.merging.merged import Merged
from adaptool.merging.sampling import spacing
from adaptool.parity.compare import Pair, distances, numbers, read_actual
from adaptool.parity.roundoff import exact_rows, round_off, roundings
from adaptool.tensors.dtypes import Array, DType, Floats, narrow, widen
from adaptool.tensors.store import Store
from adaptool.tensors.views import Cast

DRIFT_SIGMAS = 6.0
"""Standard errors off zero that make a drift real: one chance in 10⁹ for each tensor."""

DRIFT_SHARE = 0.1
"""Of the update: a real drift below it is another arithmetic (bf16 factors, TF32), not another merge."""


PLAINLY_WRONG = 0.5
"""Of a row's elements."""

ROWS_WORTH_SAMPLING = 32

MANY_PER_WRONG = 10
"""Elements a little off for each that is off by more than a rounding, where arithmetic is why; damage is alone."""

EVERYWHERE = 0.05
"""Of a tensor's elements: more than damage reaches."""

STILL_ELEMENTS = 8
"""Elements that should have moved and did not, none of them: rounding does not do that by chance."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What one block, or all of a tensor's together, was found to be."""

    elements: int
    unequal: int = 0
    wrong: int = 0
    """Off by more than the roundings of the recipe; an estimate where whole blocks are."""
    nonfinite: int = 0
    """NaN or Inf where the merge has none."""
    worst: float = 0.0
    """The largest distance, in units in the last place of the largest number the element went through."""
    place: tuple[int, int] | None = None
    """The worst element's (row, column)."""
    wrong_rows: tuple[int, int] | None = None
    """First and last row with a wrong element."""
    strayed: int = 0
    """Elements that are not the nearest recipe's."""
    coarse: int = 0
    """Off by more than arithmetic in the base's own 16-bit type makes them."""
    moved: int = 0
    """Elements of those blocks that are not the base's."""
    equals: frozenset[str] | None = None
    """Other recipes that give these very bits; None where the one asked for does."""
    drift: float = 0.0
    """Σ error · update."""
    spread: float = 0.0
    """Σ (error · update)²: the variance of ``drift`` if errors were only roundings."""
    update: float = 0.0
    """Σ rounded update · update: what ``drift`` is a share of."""

    @property
    def drifts(self) -> bool:
        """Whether the errors, each within a rounding, together undo or repeat the update."""
        real = self.drift**2 > DRIFT_SIGMAS**2 * self.spread and abs(self.drift) > DRIFT_SHARE * abs(self.update)
        return real or (self.moved == 0 and self.strayed >= STILL_ELEMENTS)

    @property
    def coarsely_right(self) -> bool:
        """Whether it is this merge in 16-bit arithmetic: errors are everywhere, small, and lead nowhere."""
        everywhere = self.strayed >= min(MANY_PER_WRONG * self.wrong, EVERYWHERE * self.elements)
        return self.wrong > 0 and not self.coarse and not self.drifts and everywhere


def total(parts: Sequence[Judged]) -> Judged:
    """A tensor's blocks, in order, together."""
    worst = max(parts, key=lambda part: part.worst)
    rows = [part.wrong_rows for part in parts if part.wrong_rows is not None]
    equals = [part.equals for part in parts if part.equals is not None]
    return Judged(
        elements=sum(part.elements for part in parts),
        unequal=sum(part.unequal for part in parts),
        wrong=sum(part.wrong for part in parts),
        nonfinite=sum(part.nonfinite for part in parts),
        worst=worst.worst,
        place=worst.place,
        wrong_rows=(rows[0][0], rows[-1][1]) if rows else None,
        strayed=sum(part.strayed for part in parts),
        coarse=sum(part.coarse for part in parts),
        moved=sum(part.moved for part in parts),
        equals=frozenset.intersection(*equals) if equals else None,
        drift=sum(part.drift for part in parts),
        spread=sum(part.spread for part in parts),
        update=sum(part.update for part in parts),
    )


@dataclass(frozen=True)
class Recipes:
    """The faithful results of one merge, for a checkpoint of type ``kind``; the one asked for comes first."""

    merged: Merged
    kind: DType

    @cached_property
    def after(self) -> tuple[tuple[str, Store], ...]:
        """Merged in the base's type, then converted."""
        merged, other = self.merged, replace(self.merged, safe=not self.merged.safe)
        label = f"--rounding {'safe' if other.safe else 'once'}"
        return (("", Cast(merged, self.kind)), (label, Cast(other, self.kind)))

    @cached_property
    def before(self) -> tuple[tuple[str, Store], ...]:
        """The base converted first, as a script that loads it in another type does."""
        converted = converted_first(self.merged, self.kind)
        other = replace(converted, safe=not converted.safe)
        label = f"a base converted to {self.kind} first"
        return ((label, converted), (f"{label}, --rounding {'safe' if other.safe else 'once'}", other))

    def of(self, name: str) -> tuple[tuple[str, Store], ...]:
        """The (what it is called, result) a tensor may equal."""
        if name not in self.merged.changed:
            return self.after[:1]
        return self.after if self.merged[name].dtype == self.kind else (*self.after, *self.before)


def converted_first(merged: Merged, kind: DType) -> Merged:
    """The same merge onto the base converted to ``kind``."""
    plan = merged.plan
    return replace(
        merged,
        plan=replace(
            plan,
            base=replace(plan.base, store=Cast(plan.base.store, kind)),
            replaced={name: replace(source, dtype=kind) for name, source in plan.replaced.items()},
            added={name: replace(source, dtype=kind) for name, source in plan.added.items()},
        ),
    )


class Judge:
    """Judges blocks of ``actual`` against ``merged``; safe to call from several threads."""

    def __init__(self, merged: Merged, actual: Store) -> None:
        self._merged, self._actual = merged, actual
        kinds = {info.dtype for info in actual.infos.values() if info.dtype.mergeable}
        self._recipes = {kind: Recipes(merged, kind) for kind in kinds}

    def __call__(self, pair: Pair, start: int, stop: int) -> Judged:
        """Rows ``start:stop`` of the expected tensor."""
        native, kind = self._merged[pair.expected].dtype, self._actual[pair.actual].dtype
        actual = read_actual(pair, self._actual, start, stop)
        if not (native.mergeable and kind.mergeable):
            return self._other_types(pair, self._merged.read(pair.expected, start, stop), actual)
        recipes = self._recipes[kind].of(pair.expected)
        results = [recipes[0][1].read(pair.expected, start, stop)]
        if np.array_equal(actual, results[0]):
            return Judged(actual.size)
        results += [store.read(pair.expected, start, stop) for _, store in recipes[1:]]
        equals = [
            label for (label, _), result in zip(recipes[1:], results[1:], strict=True) if (result == actual).all()
        ]
        if equals:
            return Judged(actual.size, int(np.count_nonzero(actual != results[0])), equals=frozenset(equals))
        if (plain := self._plainly_wrong(pair, start, stop, actual, results)) is not None:
            return plain
        return self._against_nearest(pair, start, stop, actual, results)

    def _plainly_wrong(
        self, pair: Pair, start: int, stop: int, actual: Array, results: Sequence[Array]
    ) -> Judged | None:
        """The block judged by its first, middle and last rows, where most of each is wrong; None where it is not.

        A merge that is wrong is mostly wrong everywhere, and telling by how much costs more than merging did.
        """
        patches = self._merged.plan.patches.get(pair.expected, ())
        unit = self._merged.layout(pair.expected).unit if patches else 1
        if (stop - start) // unit < ROWS_WORTH_SAMPLING or any(patch.whole for patch in patches):
            return None
        seen = []
        for first in (start, start + (stop - start) // unit // 2 * unit, stop - unit):
            cut = slice(first - start, first - start + unit)
            judged = self._against_nearest(pair, first, first + unit, actual[cut], [result[cut] for result in results])
            if judged.wrong < PLAINLY_WRONG * judged.elements or judged.nonfinite:
                return None
            seen.append(judged)
        if not np.isfinite(widen(actual, self._actual[pair.actual].dtype)).all():
            return None
        sample = total(seen)
        scale = actual.size / sample.elements
        return replace(
            sample,
            elements=actual.size,
            unequal=int(np.count_nonzero(actual != results[0])),
            wrong=round(sample.wrong * scale),
            strayed=round(sample.strayed * scale),
            coarse=round(sample.coarse * scale),
            moved=round(sample.moved * scale),
            wrong_rows=(start, stop - 1),
        )

    def _other_types(self, pair: Pair, expected: Array, actual: Array) -> Judged:
        """Integers, booleans and packed types: the same bytes or wrong."""
        native, kind = self._merged[pair.expected].dtype, self._actual[pair.actual].dtype
        if native != kind and native.mergeable:
            raise UnsupportedError(
                f"{pair.actual} is {kind}: a checkpoint that was quantised after the merge cannot be checked",
                hint="verify the 16-bit model before it is quantised",
            )
        unequal = actual.size if native != kind else int(np.count_nonzero(expected != actual))
        return Judged(actual.size, unequal, unequal, equals=frozenset() if unequal else None)

    def _against_nearest(self, pair: Pair, start: int, stop: int, actual: Array, results: Sequence[Array]) -> Judged:
        native, kind = self._merged[pair.expected].dtype, self._actual[pair.actual].dtype
        values = numbers(actual, kind)
        away, expected = min(
            ((distances(found, values), found) for found in (numbers(result, kind) for result in results)),
            key=lambda candidate: (int(np.isnan(candidate[0]).sum()), float(np.nansum(np.square(candidate[0])))),
        )
        base, exact, scale, noise, coarse = self._truth(pair.expected, start, stop, expected)
        step = np.maximum(spacing(scale, kind), spacing(scale, native))
        steps = roundings(self._merged.plan.patches.get(pair.expected, ()), safe=self._merged.safe) + (kind != native)
        allowed = max(1, steps) * step
        wrong = ~(away <= allowed + noise)
        ulps = np.where(np.isnan(away), np.inf, away / step)
        worst = np.unravel_index(int(np.argmax(ulps)), ulps.shape)
        rows = np.flatnonzero(wrong.any(axis=-1))
        error, update = (
            np.where(np.isfinite(away), values - expected, 0.0),
            np.where(np.isfinite(exact), exact - base, 0.0),
        )
        pulls = error * update
        unequal = int(np.count_nonzero(actual != results[0]))
        return Judged(
            elements=actual.size,
            unequal=unequal,
            strayed=int(np.count_nonzero(away)),
            coarse=int(np.count_nonzero(~(away <= allowed + coarse))),
            wrong=int(np.count_nonzero(wrong)),
            nonfinite=int(np.count_nonzero(~np.isfinite(values) & np.isfinite(expected))),
            worst=float(ulps[worst]),
            place=(start + int(worst[0]), int(worst[1])),
            wrong_rows=(start + int(rows[0]), start + int(rows[-1])) if rows.size else None,
            moved=int(np.count_nonzero(values != (base if kind == native else numbers(narrow(base, kind), kind)))),
            equals=frozenset(),
            drift=float(pulls.sum()),
            spread=float(np.vdot(pulls, pulls)),
            update=float(np.sum(np.where(np.isfinite(expected), expected - base, 0.0) * update)),
        )

    def _truth(self, name: str, start: int, stop: int, expected: Floats) -> tuple[Floats, ...]:
        """The unmerged rows, the exact merge, the largest number on each element's way, fine and coarse round-off."""
        if not self._merged.plan.patches.get(name):
            nothing = np.zeros_like(expected)
            return expected, expected, np.where(np.isfinite(expected), np.abs(expected), 0.0), nothing, nothing
        unit = self._merged.layout(name).unit
        first, count = start // unit, (stop - start) // unit
        exact, scale = exact_rows(self._merged, name, first, count)
        scale = np.where(np.isfinite(scale), scale, 0.0)
        fine, coarse = round_off(self._merged, name, first, count, scale)
        base = numbers(self._merged.unmerged(name, start, stop), self._merged[name].dtype)
        return tuple(values.reshape(expected.shape) for values in (base, exact, scale, fine, coarse))
