"""What a file is, by its first bytes: a name is a claim, and attackers and users both get it wrong."""

from __future__ import annotations

import re
from pathlib import Path

from adaptool.tensors.files import FileHandle, open_file
from adaptool.tensors.safetensors import HEADER_LIMIT

_TORCH_LEGACY = re.compile(rb"\x80[\x02-\x05](?:\x95.{8})?\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19\.", re.DOTALL)
"""A pickle, in any protocol, of the number 0x1950a86a20f9469cfc6c, with which torch.save began until 1.6."""

_PICKLE = re.compile(rb"\x80[\x00-\x05]|\(?[ci][A-Za-z_][\w.]*\n[A-Za-z_][\w.]*\n|\((?:d|l)p\d+\n")
"""Protocol 2 and later say so; before that, an import, a dictionary or a list gives a pickle away."""

_ENDS = 1 << 16
"""Bytes at either end of a zip archive in which ``data.pkl`` is named if PyTorch wrote it."""


def sniff(path: Path) -> str:
    """What the file holds, never judged by its extension.

    One of: ``safetensors``, ``torch-zip`` (torch.save since 1.6), ``torch-legacy`` (before),
    ``pickle`` (any other), ``lfs-pointer`` (or Xet's), ``gguf``, ``unknown``. That it is sound is not promised.
    """
    handle = open_file(path)
    try:
        return _kind(handle)
    finally:
        handle.close()


def _kind(handle: FileHandle) -> str:
    head = handle.read(0, min(_ENDS, handle.size))
    if head.startswith(b"GGUF"):
        return "gguf"
    if head.startswith((b"version https://git-lfs", b"# xet version ")):
        return "lfs-pointer"
    if head.startswith(b"PK\3\4"):
        start = max(0, handle.size - _ENDS)
        tail = handle.read(start, handle.size - start)
        return "torch-zip" if b"/data.pkl" in head or b"/data.pkl" in tail else "unknown"
    if _TORCH_LEGACY.match(head):
        return "torch-legacy"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= min(HEADER_LIMIT, handle.size - 8):
        return "safetensors"
    return "pickle" if _PICKLE.match(head) else "unknown"
