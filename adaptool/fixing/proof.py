"""The proof that a fixed adapter does what the old one did: every module's ΔW, and every other tensor, compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from adaptool.adapters.adapter import Adapter
from adaptool.errors import ParityError
from adaptool.summary.contents import LowRankModule, low_rank_modules
from adaptool.summary.spectrum import product_singular_values
from adaptool.tensors.dtypes import Floats
from adaptool.tensors.store import Store

F32_ROUNDING = 1e-6
"""‖ΔW′ − ΔW‖_F / ‖ΔW‖_F: one rounding of B to float32 is 2⁻²⁴ of each element, and B@A may cancel some of it."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What was compared, and how far apart the furthest was."""

    modules: int
    """Low-rank updates compared."""
    largest: float
    """The largest ‖ΔW′ − ΔW‖_F / ‖ΔW‖_F, in float64; 0 where the factors are the same bytes."""
    module: str
    """The module it is of."""
    tensors: int
    """Tensors that are byte for byte what they were."""


def prove(before: Adapter, after: Adapter) -> Proof:
    """Compare an adapter with what it was made from, under the same keys. Raises ParityError where they differ."""
    if set(before.store) != set(after.store):
        lost = sorted(set(before.store) ^ set(after.store))
        raise ParityError(f"{after.path}: {lost[0]!r} is in one of the two adapters only")
    old = {module.name: module for module in low_rank_modules(before)} if _lora(before) else {}
    new = {module.name: module for module in low_rank_modules(after)} if _lora(after) else {}
    if set(old) != set(new):
        raise ParityError(f"{after.path}: not the modules that {before.path} changes")
    apart = {name: 0.0 if _same_update(old[name], new[name]) else difference(old[name], new[name]) for name in old}
    worst = max(apart, key=lambda name: apart[name], default="")
    if worst and not apart[worst] <= F32_ROUNDING:
        raise ParityError(f"{after.path}: ΔW of {worst} is {apart[worst]:.1e} away from what it was")
    factors = {key for module in old.values() for key in _factor_keys(module)}
    biases = {key for key in before.store if key.endswith("lora_B.bias")}
    same = sum(_same_bytes(key, before.store, after.store) for key in before.store)
    for key in set(before.store) - factors - biases:
        if not _same_bytes(key, before.store, after.store):
            raise ParityError(f"{after.path}: {key} is not what it was")
    return Proof(len(old), apart.get(worst, 0.0), worst, same)


def _same_update(old: LowRankModule, new: LowRankModule) -> bool:
    """Whether scale and factors are the very same."""
    one, other = old.factors[0], new.factors[0]
    return old.scale == new.scale and all(
        _same_bytes(key, one.store, other.store) for key in (one.a, one.b, *([one.diagonal] if one.diagonal else []))
    )


def difference(old: LowRankModule, new: LowRankModule) -> float:
    """‖ΔW′ − ΔW‖_F / ‖ΔW‖_F of one module, from its factors in float64: ΔW′ − ΔW = [s′B′ | −sB] @ [A′; A]."""
    apart = total = 0.0
    for (left, right), (left_new, right_new) in zip(_loaded(old), _loaded(new), strict=True):
        values = product_singular_values(np.hstack([left_new, -left]), np.vstack([right_new, right]))
        norms = product_singular_values(left, right)
        apart, total = apart + float(values @ values), total + float(norms @ norms)
    return float(np.sqrt(apart / total)) if total else float(np.sqrt(apart))


def _loaded(module: LowRankModule) -> Iterator[tuple[Floats, Floats]]:
    for factors in module.factors:
        left, right = factors.load("float64")
        yield module.scale * left, right


def _factor_keys(module: LowRankModule) -> tuple[str, str]:
    return module.factors[0].a, module.factors[0].b


def _lora(adapter: Adapter) -> bool:
    return adapter.config.peft_type == "LORA"


def _same_bytes(key: str, one: Store, other: Store) -> bool:
    first, second = one[key], other[key]
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        return False
    return all(
        bool((one.read(key, start, stop) == other.read(key, start, stop)).all())
        for start, stop in one.spans(key, 4 << 20)
    )
