"""PEFT types that are recognised and not merged: because nothing could, or because it is not written yet."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptool.adapters.tuners.tuner import Refusal, Tuner

if TYPE_CHECKING:
    from adaptool.adapters.adapter import Adapter
    from adaptool.adapters.config import AdapterConfig
    from adaptool.adapters.plan import Plan

PROMPTS = {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE"}
"""Virtual tokens: they act on the input, and no weight holds them."""

ROUTED = {"LILY", "SHADOW", "POLY", "XLORA", "ADAPTION_PROMPT"}
"""What they add depends on the input."""

LATER = {
    "ADALORA", "ADAMSS", "BEFT", "BOFT", "BONE", "C3A", "DEFT", "DELORA", "FOURIERFT", "FROD", "GLORA", "GRALORA",
    "HIRA", "HRA", "IA3", "LN_TUNING", "LOHA", "LOKR", "MISS", "OFT", "OSF", "PEANUT", "PSOFT", "PVERA", "RANDLORA",
    "ROAD", "SHIRA", "SUPERTUNING", "TINYLORA", "TRAINABLE_TOKENS", "UNILORA", "VBLORA", "VERA", "WAVEFT",
}  # fmt: skip


@dataclass(frozen=True)
class Unmergeable(Tuner):
    """A PEFT type without a merge here; ``inspect`` still reads it."""

    peft_type: str
    part = re.compile(r"(?:lora|lokr|hada|oft|boft|ia3|vera|hra|road|miss|shira|delora)_[^.]+(?:\.[^.]+)?")

    def refusal(self, config: AdapterConfig) -> Refusal:
        if self.peft_type in PROMPTS:
            return Refusal(
                f"{self.peft_type} adds virtual tokens to the input, which no weight can hold",
                "serve it as an adapter: it cannot be merged",
            )
        if self.peft_type in ROUTED:
            return Refusal(
                f"what {self.peft_type} adds depends on the input, so no single weight equals it",
                "serve it as an adapter: it cannot be merged",
            )
        if self.peft_type in LATER:
            return Refusal(f"merging {self.peft_type} is not supported yet", "merge it with PEFT's merge_and_unload()")
        return Refusal(f"{self.peft_type} is not a PEFT type this version knows", "is adaptool up to date?")

    def plan(self, adapter: Adapter, weight: float, plan: Plan) -> set[str]:
        raise AssertionError("refusal() comes first")
