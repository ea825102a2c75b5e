"""How many tensors are looked at: a header of a million entries would keep every rule busy for minutes."""

from __future__ import annotations

from pathlib import Path

from adaptool.errors import FormatError
from adaptool.tensors.files import open_file
from adaptool.tensors.safetensors import HEADER_LIMIT

TENSORS_LIMIT = 100_000
"""A LoRA on every expert of DeepSeek-V3, the most modules of any open model, has 90 000."""

_SHORTEST_ENTRY = 50
"""Bytes of ``"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}``."""


def refuse_a_flood(path: Path) -> None:
    """Raise FormatError for a header with more tensors than any adapter has, counted without parsing it.

    Every entry has two lists, and a bracket cannot be spelt otherwise; those in strings are counted along.
    """
    handle = open_file(path)
    try:
        length = int.from_bytes(handle.read(0, min(8, handle.size)), "little")
        if not TENSORS_LIMIT * _SHORTEST_ENTRY < length <= min(HEADER_LIMIT, handle.size - 8):
            return
        header = handle.read(8, length)
    finally:
        handle.close()
    count = header.count(b"[") // 2
    if header.startswith(b"{") and count > TENSORS_LIMIT:
        raise FormatError(
            f"{path}: a header of {length} bytes that lists some {count} tensors",
            hint=f"no adapter has more than {TENSORS_LIMIT}: do not use the file",
            defect="too-many-tensors",
        )
