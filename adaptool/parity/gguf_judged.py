"""What comparing rows of a GGUF with its model's tells, as sums that add up to a tensor's and to a file's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

Place = tuple[int, int]
"""(row, column)."""


@dataclass(frozen=True, slots=True)
class Update:
    """How far values q went from the base W along the update Δ, over ``elements``: sums of products."""

    elements: int = 0
    length: float = 0.0
    """‖Δ‖²."""
    along: float = 0.0
    """<q − W, Δ>."""
    moved: float = 0.0
    """‖q − W‖²."""
    ours: float = 0.0
    """<q′ − W, Δ> of what our quantiser makes of W + Δ."""

    def __add__(self, other: Update) -> Update:
        return Update(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(Update)))

    @property
    def k(self) -> float:
        """The scale at which the update is there: 1 where it is whole."""
        return self.along / self.length if self.length else math.nan

    @property
    def expected(self) -> float:
        """The same of our own quantiser: below 1 where the update is smaller than the type's steps."""
        return self.ours / self.length if self.length else math.nan

    @property
    def deviation(self) -> float:
        """The standard deviation of ``k``, were the errors independent of the update."""
        left = max(0.0, self.moved - self.along**2 / self.length) if self.length else 0.0
        return math.sqrt(left / self.elements / self.length) if self.length else math.inf

    @property
    def weight(self) -> float:
        """By which it counts among others: one over the variance of an element's error."""
        return 1 / (self.length * self.deviation**2) if self.deviation else 0.0

    def scaled(self, weight: float) -> Update:
        """All sums times ``weight``: to be added up with others'."""
        return Update(*(getattr(self, field.name) * weight for field in fields(Update)))


@dataclass(frozen=True, slots=True)
class Judged:
    """What rows of a tensor were found to be: x are the model's, q the file's, q′ what our quantiser makes of x."""

    elements: int = 0
    blocks: int = 0
    """Compared byte by byte (elements, of a plain type)."""
    unequal: int = 0
    """Of those."""
    rerouted: int = 0
    """Of these: equal to what the model gives by way of another 16-bit type."""
    squares: float = 0.0
    """‖x‖²."""
    error: float = 0.0
    """‖q − x‖²."""
    product: float = 0.0
    """<q, x>."""
    own_squares: float = 0.0
    """‖q‖²."""
    sampled: float = 0.0
    """‖x‖² of the rows that were quantised again."""
    ours: float = 0.0
    """‖q′ − x‖² of those."""
    unrounded: float = 0.0
    """‖q − x‖² with x merged in float32, over the rows that differ."""
    unrounded_squares: float = 0.0
    damaged: int = 0
    """Blocks that lost more than a block of the type can."""
    damaged_elements: int = 0
    damaged_error: float = 0.0
    """Their share of ``error``."""
    damaged_at: Place | None = None
    """Where the first of them begins."""
    unequal_at: Place | None = None
    """Where the first block begins that is unequal."""
    nonfinite: int = 0
    """NaN or Inf where the model has none."""
    update: Update = Update()

    @property
    def rmse(self) -> float:
        """‖q − x‖ / ‖x‖."""
        return _ratio(self.error, self.squares)

    @property
    def spared_rmse(self) -> float:
        """Of all but the damaged blocks."""
        return _ratio(max(0.0, self.error - self.damaged_error), self.squares)

    @property
    def our_rmse(self) -> float | None:
        """What our quantiser loses, where it was asked."""
        return _ratio(self.ours, self.sampled) if self.sampled else None

    @property
    def unrounded_rmse(self) -> float | None:
        """The distance from the merge in float32, where that was looked at."""
        return _ratio(self.unrounded, self.unrounded_squares) if self.unrounded_squares else None


def total(parts: Sequence[Judged]) -> Judged:
    """A tensor's rows together."""
    together: dict[str, Any] = {}
    for field in fields(Judged):
        values = [getattr(part, field.name) for part in parts]
        if field.name in ("damaged_at", "unequal_at"):
            together[field.name] = next(filter(None, values), None)
        else:
            together[field.name] = sum(values, Update()) if field.name == "update" else sum(values)
    return Judged(**together)


def _ratio(error: float, squares: float) -> float:
    if squares:
        return math.sqrt(error / squares)
    return math.inf if error else 0.0
