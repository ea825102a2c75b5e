"""The PEFT types, one file each: what they save, and what they do to the base.

Adding a type is adding a file with a ``Tuner`` and naming it in ``TUNERS``; the tests that compare a merge
with PEFT's take their cases from the fixtures' registry.
"""

from __future__ import annotations

from adaptool.adapters.config import AdapterConfig
from adaptool.adapters.tuners.lora import Lora
from adaptool.adapters.tuners.tuner import Tuner
from adaptool.adapters.tuners.unmergeable import Unmergeable

TUNERS: dict[str, Tuner] = {"LORA": Lora()}


def tuner_for(config: AdapterConfig) -> Tuner:
    """The tuner of an adapter; a type that cannot be merged here still has a name and a reason."""
    return TUNERS.get(config.peft_type) or Unmergeable(config.peft_type)


__all__ = ["TUNERS", "Tuner", "tuner_for"]
