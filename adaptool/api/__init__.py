"""The verbs as functions: what ``from adaptool import …`` gives, and what the commands call.

They take paths and options, and return the values the commands print; nothing here prints. What a verb needs is
imported when it is called: the others start without it.
"""

from __future__ import annotations

from adaptool.api.checking import fix, inspect, validate, validation_options
from adaptool.api.comparing import diff
from adaptool.api.merging import convert, convert_back, convert_lora, gguf_options, merge, verify, verify_gguf
from adaptool.api.opening import Inputs, Weighted, open_inputs

__all__ = [
    "Inputs", "Weighted", "convert", "convert_back", "convert_lora", "diff", "fix", "gguf_options", "inspect", "merge",
    "open_inputs", "validate", "validation_options", "verify", "verify_gguf",
]  # fmt: skip
