"""What every PEFT type answers for itself."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adaptool.adapters.adapter import Adapter
    from adaptool.adapters.config import AdapterConfig
    from adaptool.adapters.plan import Plan


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an adapter cannot be merged faithfully, and the way out."""

    reason: str
    way_out: str


class Tuner(ABC):
    """One PEFT type."""

    part: re.Pattern[str]
    """Matches the tail of a saved key that is this type's own tensor."""

    @abstractmethod
    def refusal(self, config: AdapterConfig) -> Refusal | None:
        """Why this adapter cannot be merged, if so; decided from the config alone."""

    @abstractmethod
    def plan(self, adapter: Adapter, weight: float, plan: Plan) -> set[str]:
        """Add to ``plan`` all the adapter does, at ``weight``; the saved keys accounted for.

        Raises MismatchError where adapter and base do not fit.
        """
