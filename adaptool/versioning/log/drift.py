"""How far an adapter went from another: ‖ΔW′ − ΔW‖ over all its low-rank updates, from their factors, and no more."""

from __future__ import annotations

from dataclasses import dataclass

from adaptool.adapters.adapter import Adapter
from adaptool.comparing.geometry import Update, joint, update_of
from adaptool.comparing.result import EQUAL
from adaptool.comparing.updates import is_lora, modules_of
from adaptool.summary.contents import LowRankModule


@dataclass(frozen=True, slots=True)
class Drift:
    """Two adapters of one kind. Norms are Frobenius, of all updates as one vector."""

    norm_before: float
    norm_after: float
    distance: float

    @property
    def relative(self) -> float | None:
        """The distance as a share of where it began; None from nothing."""
        return self.distance / self.norm_before if self.norm_before else None


def drift(before: Adapter, after: Adapter) -> Drift | None:
    """What lies between two LoRAs; None of other types, and where a number is none. A module in one alone counts whole.

    A distance below EQUAL of the norms, where the difference of squares has no digits left, is 0.
    """
    if not (is_lora(before) and is_lora(after)):
        return None
    old, new = modules_of(before), modules_of(after)
    one = two = inner = 0.0
    for name in old.keys() | new.keys():
        first, second = old.get(name), new.get(name)
        if first is not None and second is not None and first.shape != second.shape:
            return None
        parts = _squares(first, second)
        one, two, inner = one + parts[0], two + parts[1], inner + parts[2]
    square = one + two - 2 * inner
    if not square < float("inf"):
        return None
    distance = max(square, 0.0) ** 0.5
    return Drift(one**0.5, two**0.5, 0.0 if distance <= EQUAL * max(one, two) ** 0.5 else distance)


def _squares(old: LowRankModule | None, new: LowRankModule | None) -> tuple[float, float, float]:
    """‖ΔW‖², ‖ΔW′‖² and ⟨ΔW, ΔW′⟩ of one module, all its experts together."""
    total = (0.0, 0.0, 0.0)
    known = old or new
    assert known is not None, "a module is in one of the two"
    for number in range(len(known.factors)):
        first, second = (_update(module, number) for module in (old, new))
        only = first or second
        assert only is not None, "as is its factor"
        pair = joint(first or only, second or only)
        r = pair.rank
        blocks = [(slice(None, r),) * 2, (slice(r, None),) * 2, (slice(None, r), slice(r, None))]
        sums = [float((pair.columns[at] * pair.rows[at]).sum()) for at in blocks]
        s, t = pair.scales
        total = (
            total[0] + (s * s * sums[0] if first else 0.0), total[1] + (t * t * sums[1] if second else 0.0),
            total[2] + (s * t * sums[2] if first and second else 0.0),
        )  # fmt: skip
    return total


def _update(module: LowRankModule | None, number: int) -> Update | None:
    return None if module is None else update_of(module.factors[number], module.applied_scale)
