"""adaptool: inspect, merge, convert and verify LoRA adapters: streaming, in constant memory, bit-identical to PEFT.

The command line's verbs are functions here: ``inspect``, ``merge``, ``convert``, ``validate``, ``verify``, ``diff``, …
Each is imported on first use, so that ``import adaptool`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adaptool.api import convert, diff, fix, gguf_options, inspect, merge, validate, validation_options, verify
    from adaptool.versioning.verbs import version_check, version_log

__version__ = "0.1.0"
__all__ = [
    "__version__", "convert", "diff", "fix", "gguf_options", "inspect", "merge", "validate", "validation_options",
    "verify", "version_check", "version_log",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name.startswith("version_") and name in __all__:
        from adaptool.versioning import verbs

        return getattr(verbs, name)
    if name in __all__:
        from adaptool import api

        return getattr(api, name)
    raise AttributeError(f"module 'adaptool' has no attribute {name!r}")
