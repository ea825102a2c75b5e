"""Every low-rank update of two adapters, paired by module and measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from adaptool.adapters.adapter import Adapter
from adaptool.adapters.factors import Factors
from adaptool.comparing.geometry import Geometry, Matrix, Update, finite, geometry, same_geometry, together, update_of
from adaptool.comparing.result import EQUAL, ModuleChange, Place
from adaptool.comparing.tensors import ratio
from adaptool.summary.contents import LowRankModule, low_rank_modules, place_of
from adaptool.summary.spectrum import module_spectrum

ROUNDING = {"BF16": 2**-7, "F16": 2**-10}
"""‖ΔW′ − ΔW‖/‖ΔW‖ that storing other factors of one ΔW in these types leaves: a few times half a unit in the last
place. It counts as the same only where the factors moved MOVED times as far: training moves both alike."""

MOVED = 8.0

PARALLEL = 1e-11
"""1 − |cosine| of two updates that differ by a number alone: a sine of some 5·10⁻⁶, the rounding of float32 factors."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """What the verdict asks of a pair of updates, beyond what is reported of it."""

    factors: bool
    """A and B hold the same values."""
    multiples: bool
    """Each factor is the old one times a number."""
    parallel: bool
    """ΔW′ is ΔW times a number."""
    kinship: tuple[float | None, float | None]
    """The cosines of B with B′ and of A with A′, element by element: training moves them little by little from where
    they were, and another start shares nothing with them. None where one is zero, or the rank is another."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One module of either adapter: the report of it, and what the verdict asks."""

    change: ModuleChange
    likeness: Likeness | None = None
    """None where it is in one of the two only, not finite, or of two shapes."""
    misfit: bool = False
    """Of two shapes: not for the same layer of the same model."""

    @property
    def likeness_of(self) -> Likeness:
        """The likeness, of a pair that has one."""
        assert self.likeness is not None, f"{self.change.module} has nothing to be compared with"
        return self.likeness


def paired_updates(before: Adapter, after: Adapter) -> Iterator[Pair]:
    """Every LoRA module of either adapter, in the order of the file; none of another PEFT type."""
    old, new = ({m.name: m for m in low_rank_modules(a)} if is_lora(a) else {} for a in (before, after))
    for name, module in old.items():
        yield _pair(module, new[name]) if name in new else _alone(module, before, "removed")
    for name, module in new.items():
        if name not in old:
            yield _alone(module, after, "added")


def is_lora(adapter: Adapter) -> bool:
    """Whether it is of the type whose updates are products of two factors at one scale."""
    return adapter.config.peft_type == "LORA"


def place(name: str) -> Place:
    """Where a module sits."""
    found = place_of(name)
    return Place(found.stack, found.layer, found.name)


def scale_of(module: LowRankModule) -> float:
    """What B@A is multiplied with in all."""
    return module.scale * (2 if module.twice else 1)


def _alone(module: LowRankModule, adapter: Adapter, state: str) -> Pair:
    spectrum = module_spectrum(module, adapter.store)
    used = max((len([v for v in m.singular_values if v > 1e-6 * m.singular_values[0]]) for m in spectrum.matrices
                if m.state == "trained"), default=0)  # fmt: skip
    mine = (spectrum.frobenius, module.rank, None if spectrum.state == "not_finite" else used, scale_of(module))
    none = (None, None, None, None)
    (n1, r1, u1, s1), (n2, r2, u2, s2) = (mine, none) if state == "removed" else (none, mine)
    return Pair(
        ModuleChange(
            module.name, place(module.name), "removed" if state == "removed" else "added", n1, n2, spectrum.frobenius,
            None, None, (), (), r1, r2, u1, u2, s1, s2, same_factors=False,
        )
    )  # fmt: skip


def _pair(old: LowRankModule, new: LowRankModule) -> Pair:
    if old.shape != new.shape or len(old.factors) != len(new.factors):
        return Pair(_report(old, new, None, same=False), misfit=True)
    parts: list[Geometry] = []
    likenesses: list[Likeness] = []
    for one, two in zip(old.factors, new.factors, strict=True):
        first, second = update_of(one, scale_of(old)), update_of(two, scale_of(new))
        factors = np.array_equal(first.left, second.left, equal_nan=True) and np.array_equal(
            first.right, second.right, equal_nan=True
        )
        if not (finite(first) and finite(second)):
            return Pair(_report(old, new, None, same=factors and first.scale == second.scale))
        part = same_geometry(first) if factors and first.scale == second.scale else geometry(first, second)
        parts.append(part)
        likenesses.append(_likeness(first, second, part, factors=factors))
    likeness = Likeness(
        all(one.factors for one in likenesses), all(one.multiples for one in likenesses),
        all(one.parallel for one in likenesses), likenesses[0].kinship,
    )  # fmt: skip
    found = together(parts)
    return Pair(_report(old, new, found, same=likeness.factors, tolerance=_tolerance(old, new, found)), likeness)


def _tolerance(old: LowRankModule, new: LowRankModule, found: Geometry) -> float:
    """How far apart two updates may be and still be one ΔW, as the types of their factors hold it."""
    kinds = {
        factors.store[key].dtype.name for m in (old, new) for factors in m.factors[:1] for key in (factors.a, factors.b)
    }
    most = max((ROUNDING[kind] for kind in kinds & ROUNDING.keys()), default=EQUAL)
    close = EQUAL * found.norm_before < found.distance <= most * found.norm_before
    if not close or found.used_before != found.used_after:
        return EQUAL
    moved = [_moved(one, two) for one, two in zip(old.factors, new.factors, strict=True)]
    return most if max(moved) * found.norm_before >= MOVED * found.distance else EQUAL


def _moved(one: Factors, two: Factors) -> float:
    """How far the further of two factors is from what it was, relatively; 1 where the rank is another."""
    pairs = list(zip(one.load("float64"), two.load("float64"), strict=True))
    if one.rank != two.rank:
        return 1.0
    return max(float(np.linalg.norm(new - old) / (np.linalg.norm(old) or 1.0)) for old, new in pairs)


def _report(
    old: LowRankModule, new: LowRankModule, found: Geometry | None, *, same: bool, tolerance: float = EQUAL
) -> ModuleChange:
    where, scales = place(old.name), (scale_of(old), scale_of(new))
    if found is None:  # not finite, or of two shapes: the very same numbers are the only sameness there is
        return ModuleChange(
            old.name, where, "same" if same else "changed", None, None, None, None, None, (), (),
            old.rank, new.rank, None, None, *scales, same_factors=same,
        )  # fmt: skip
    relative, norms = ratio(found.distance, found.norm_before), found.norm_before * found.norm_after
    return ModuleChange(
        old.name, where, "same" if relative is not None and relative <= tolerance else "changed",
        found.norm_before, found.norm_after, found.distance, relative, found.inner / norms if norms else None,
        found.column_angles, found.row_angles, old.rank, new.rank, found.used_before, found.used_after,
        *scales, same_factors=same,
    )  # fmt: skip


def _likeness(first: Update, second: Update, found: Geometry, *, factors: bool) -> Likeness:
    norms = found.norm_before * found.norm_after
    multiples = factors or (_multiple(first.left, second.left) and _multiple(first.right, second.right))
    parallel = norms > 0 and 1 - abs(found.inner) / norms <= PARALLEL
    return Likeness(
        factors,
        multiples,
        parallel or norms == found.distance == 0,
        (_cosine(first.left, second.left), _cosine(first.right, second.right)),
    )


def _multiple(one: Matrix, two: Matrix) -> bool:
    """Whether ``two`` is ``one`` times a number, to the rounding of float32."""
    if one.shape != two.shape:
        return False
    square, inner = float((one * one).sum()), float((one * two).sum())
    if square == 0:
        return not two.any()
    rest = two - (inner / square) * one
    return float((rest * rest).sum()) <= EQUAL**2 * float((two * two).sum())


def _cosine(one: Matrix, two: Matrix) -> float | None:
    norms = float(np.linalg.norm(one) * np.linalg.norm(two)) if one.shape == two.shape else 0.0
    return float((one * two).sum()) / norms if norms else None
