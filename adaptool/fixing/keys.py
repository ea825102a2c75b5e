"""Keys as PEFT saves them, out of keys that a training framework's wrappers have lengthened or cut."""

from __future__ import annotations

import re
from collections.abc import Mapping

from adaptool.adapters.adapter import Adapter
from adaptool.adapters.names import FULL, PREFIX, parse
from adaptool.adapters.tuners import tuner_for

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
"""Segments that torch.compile, FSDP, activation checkpointing and DeepSpeed put into the names of modules."""

NAMED = re.compile(
    r"(\.lora_(?:[AB]|embedding_[AB]|magnitude_vector|diag))\.(?!weight$|bias$)\w+(?=\.(?:weight|bias)$|$)"
)
"""A part with the adapter's own name behind it, as it is at run time: ``lora_A.default.weight``."""


def plain_keys(adapter: Adapter) -> Mapping[str, str] | None:
    """New key → the saved one, for every tensor; None where there is nothing to change, or no one way to.

    Only for LoRA: every key changed must come out as a part of an adapter, and no two as the same.
    """
    if adapter.config.peft_type != "LORA":
        return None
    part = tuner_for(adapter.config).part
    names = {key: _plain(key) for key in adapter.store}
    changed = {key: new for key, new in names.items() if new != key}
    if not changed or len(set(names.values())) != len(names):
        return None
    if any(parse(new, part).part in ("", FULL) for new in changed.values()):
        return None
    return {new: old for old, new in names.items()}


def _plain(key: str) -> str:
    segments = [segment for segment in key.split(".") if segment not in WRAPPERS]
    name = ".".join(segments).removeprefix("module.")
    name = NAMED.sub(r"\1", name)
    while name.startswith(PREFIX + PREFIX):
        name = name.removeprefix(PREFIX)
    return name if name.startswith("base_model.") else PREFIX + name
