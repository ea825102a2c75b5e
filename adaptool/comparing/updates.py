"""Every low-rank update of two adapters, paired by module and measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from adaptool.adapters.adapter import Adapter
from adaptool.adapters.factors import Factors
from adaptool.comparing.geometry import USED, Geometry, Update, compact, geometry, joint, together, unmoved, update_of
from adaptool.comparing.result import EQUAL, ModuleChange, Place, State
from adaptool.comparing.tensors import ratio
from adaptool.summary.contents import LowRankModule, low_rank_modules, place_of
from adaptool.summary.spectrum import module_spectrum

ROUNDING = {"BF16": 2**-7, "F16": 2**-10, "F32": 2**-17}
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
    nearly: bool
    """Each factor is the old one but for rounding, at the same scale."""
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


Modules = Mapping[str, LowRankModule]


def modules_of(adapter: Adapter) -> Modules:
    """Every LoRA module by its name, in the order of the file; none of another PEFT type."""
    return {module.name: module for module in low_rank_modules(adapter)} if is_lora(adapter) else {}


def paired_updates(old: Modules, new: Modules) -> Iterator[Pair]:
    """Every module of either adapter."""
    for name, module in old.items():
        yield _pair(module, new[name]) if name in new else _alone(module, "removed")
    for name, module in new.items():
        if name not in old:
            yield _alone(module, "added")


def is_lora(adapter: Adapter) -> bool:
    """Whether it is of the type whose updates are products of two factors at one scale."""
    return adapter.config.peft_type == "LORA"


def place(name: str) -> Place:
    """Where a module sits."""
    found = place_of(name)
    return Place(found.stack, found.layer, found.name)


def _alone(module: LowRankModule, state: State) -> Pair:
    spectrum = module_spectrum(module, module.factors[0].store)
    used = max((len([v for v in m.singular_values if v > USED * m.singular_values[0]]) for m in spectrum.matrices
                if m.state == "trained"), default=0)  # fmt: skip
    mine = (spectrum.frobenius, module.rank, None if spectrum.state == "not_finite" else used, module.applied_scale)
    none = (None, None, None, None)
    (n1, r1, u1, s1), (n2, r2, u2, s2) = (mine, none) if state == "removed" else (none, mine)
    return Pair(
        ModuleChange(
            module.name, place(module.name), state, n1, n2, spectrum.frobenius,
            None, None, (), (), r1, r2, u1, u2, s1, s2, same_factors=False,
        )
    )  # fmt: skip


def _pair(old: LowRankModule, new: LowRankModule) -> Pair:
    if old.shape != new.shape or len(old.factors) != len(new.factors):
        return Pair(_report(old, new, None, same=False), misfit=True)
    measured = [
        _measured(one, two, old.applied_scale, new.applied_scale)
        for one, two in zip(old.factors, new.factors, strict=True)
    ]
    known = [part for part in measured if part[0] is not None]
    same = all(likeness.factors for _, likeness in measured)
    if len(known) < len(measured):
        return Pair(_report(old, new, None, same=same and old.applied_scale == new.applied_scale))
    likeness = Likeness(
        same, all(part.multiples for _, part in measured), all(part.nearly for _, part in measured),
        all(part.parallel for _, part in measured), measured[0][1].kinship,
    )  # fmt: skip
    found = together([part for part, _ in measured if part is not None])
    return Pair(_report(old, new, found, same=same, tolerance=_tolerance(old, new, found)), likeness)


def _measured(old: Factors, new: Factors, before: float, after: float) -> tuple[Geometry | None, Likeness]:
    """One matrix of a module: None for its geometry where a number is no number."""
    read = update_of(old, before), update_of(new, after)
    same = _same(*read)
    first, second = compact(read[0]), compact(read[1])
    if same and before == after:
        return unmoved(first), Likeness(factors=True, multiples=True, nearly=True, parallel=True, kinship=(1.0, 1.0))
    pair = joint(first, second)
    if not pair.finite:
        return None, Likeness(same, multiples=False, nearly=False, parallel=False, kinship=(None, None))
    found = geometry(pair)
    cosines = pair.factor_cosines if first is read[0] and second is read[1] else (None, None)
    norms = found.norm_before * found.norm_after
    parallel = norms > 0 and 1 - abs(found.inner) / norms <= PARALLEL
    multiples = all(cosine is not None and 1 - abs(cosine) <= PARALLEL for cosine in cosines)
    nearly = before == after and multiples and all(abs(ratio - 1) <= EQUAL for ratio in pair.factor_growth)
    return found, Likeness(same, same or multiples, nearly, parallel or norms == found.distance == 0, cosines)


def _same(first: Update, second: Update) -> bool:
    """Whether two updates have the very same factors."""
    pairs = ((first.left, second.left), (first.right, second.right))
    return all(
        one.shape == two.shape and np.array_equal(one[:1], two[:1], equal_nan=True) for one, two in pairs
    ) and all(np.array_equal(one, two, equal_nan=True) for one, two in pairs)


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
    where, scales = place(old.name), (old.applied_scale, new.applied_scale)
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
