"""What every PEFT type but LoRA saves: its parts, how they go together, and what its config says of their sizes.

One ``Form`` per type, from PEFT's own layers; ``examine`` lays an adapter on its form. LoRA's factors have rules of
their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from adaptool.adapters.adapter import Adapter
from adaptool.adapters.tuners import TUNERS
from adaptool.rules.forms.blocks import BLOCKS
from adaptool.rules.forms.examination import Examination, examine
from adaptool.rules.forms.grammar import Form
from adaptool.rules.forms.low_rank import LOW_RANK
from adaptool.rules.forms.matching import Fault
from adaptool.rules.forms.prompts import PROMPT_FORMS
from adaptool.rules.forms.replaced import REPLACED
from adaptool.rules.forms.spread import SPREAD

FORMS: Mapping[str, Form] = {**LOW_RANK, **BLOCKS, **SPREAD, **REPLACED, **PROMPT_FORMS}
"""By PEFT type. BONE is not made any more since PEFT 0.19, and is still found."""

Features = tuple[int | None, int | None]
"""(rows, columns) of the weight a module changes, None where the saved shapes do not tell."""


def all_features(adapter: Adapter) -> dict[str, Features]:
    """For every module that its parts say something of: how many outputs and inputs the base's weight must have.

    A convolution is its (out, in·kernel) matrix; an embedding (vocabulary, width). A weight stored as (in, out), as
    GPT-2's are, is the other way round.
    """
    form = FORMS.get(adapter.config.peft_type)
    if form is None:
        return {}
    readings = (reading for reading in examine(adapter, form).modules if not reading.faults)
    found = {reading.owner.name: (reading.sizes.get("out"), reading.sizes.get("in")) for reading in readings}
    return {module: sizes for module, sizes in found.items() if sizes != (None, None)}


def features(adapter: Adapter, module: str) -> Features | None:
    """``all_features`` of one module; None where nothing is known."""
    return all_features(adapter).get(module)


def emptied(adapter: Adapter) -> frozenset[str]:
    """The saved keys that have no elements and need none: of modules that pruning left without a rank."""
    form = FORMS.get(adapter.config.peft_type)
    if form is None or not form.may_be_zero:
        return frozenset()
    found = examine(adapter, form)
    wrong = {fault.module for fault in found.faults()}
    sound = (reading.owner for reading in found.modules if reading.owner.name not in wrong)
    return frozenset(info.name for owner in sound for info in owner.parts.values() if not info.size)


def type_of(parts: Iterable[str]) -> str | None:
    """The PEFT type that has all of these parts, LORA first; None where none does."""
    named = list(parts)
    if all(re.fullmatch(TUNERS["LORA"].part, part) for part in named):
        return "LORA"
    for name, form in FORMS.items():
        if all(form.owns(part, shared=True) or form.owns(part, shared=False) for part in named):
            return name
    return None


__all__ = [
    "FORMS",
    "Examination",
    "Fault",
    "Features",
    "Form",
    "all_features",
    "emptied",
    "examine",
    "features",
    "type_of",
]
