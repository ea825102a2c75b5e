"""The proof that a fixed adapter does what the old one did: every module's ΔW, and every other tensor, compared."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

import numpy as np

from adaptool.adapters.adapter import Adapter
from adaptool.comparing.geometry import joint, lengths, update_of
from adaptool.errors import ParityError
from adaptool.summary.contents import LowRankModule, low_rank_modules
from adaptool.tensors.store import same_bytes

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
    same = {key for key in before.store if same_bytes(before.store, key, after.store, key)}
    apart = {name: _apart(old[name], new[name], same) for name in old}
    worst = max(apart, key=lambda name: apart[name], default="")
    if worst and not apart[worst] <= F32_ROUNDING:
        raise ParityError(f"{after.path}: ΔW of {worst} is {apart[worst]:.1e} away from what it was")
    compared = {key for module in old.values() for key in (*_factor_keys(module), _bias_key(module))}
    for key in before.store:
        if key not in same and key not in compared:
            raise ParityError(f"{after.path}: {key} is not what it was")
    return Proof(len(old), apart.get(worst, 0.0), worst, len(same))


def _apart(old: LowRankModule, new: LowRankModule, same: Container[str]) -> float:
    """How far two updates are apart, lora_bias counted: not at all where scale and tensors are the very same."""
    one = old.factors[0]
    beside = [key for key in (one.diagonal, _bias_key(old)) if key in one.store]
    if old.scale == new.scale and all(key in same for key in (*_factor_keys(old), *beside)):
        return 0.0
    return max(difference(old, new), bias_difference(old, new) if _bias_key(old) in beside else 0.0)


def difference(old: LowRankModule, new: LowRankModule) -> float:
    """‖ΔW′ − ΔW‖_F / ‖ΔW‖_F of one module, exactly from its factors; not a number where one of theirs is none."""
    pairs = zip(old.factors, new.factors, strict=True)
    measured = [lengths(joint(update_of(one, old.scale), update_of(two, new.scale))) for one, two in pairs]
    total, apart = (float(np.linalg.norm([each[i] for each in measured])) for i in (0, 3))
    return apart / total if total else apart


def bias_difference(old: LowRankModule, new: LowRankModule) -> float:
    """‖s′b′ − sb‖ / ‖sb‖ of what ``lora_bias`` adds to a module's bias, in float64."""
    was, now = (m.scale * m.factors[0].store.array(_bias_key(m)).astype(np.float64) for m in (old, new))
    if was.shape != now.shape:
        return float("inf")
    apart, norm = np.linalg.norm(now - was), np.linalg.norm(was)
    return float(apart / (norm or 1.0)) if np.isfinite(apart) else float("inf")


def _bias_key(module: LowRankModule) -> str:
    return module.factors[0].b.removesuffix(".weight") + ".bias"


def _factor_keys(module: LowRankModule) -> tuple[str, str]:
    return module.factors[0].a, module.factors[0].b


def _lora(adapter: Adapter) -> bool:
    return adapter.config.peft_type == "LORA"
