"""What the values of an adapter say, from one pass over its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptool.summary.spectrum import not_finite

if TYPE_CHECKING:
    from adaptool.rules.subject import Subject


@dataclass(frozen=True)
class Statistics:
    """By saved key."""

    not_finite: Mapping[str, int]
    """Tensors with NaN or Inf in them, and how many."""


def measure(subject: Subject) -> Statistics:
    """Read every tensor once."""
    return Statistics(not_finite(subject.store))
