"""Pointers that Git keeps in place of large files: Git LFS's, and git-xet's.

Source: the Git LFS specification (docs/spec.md of git-lfs); git-xet's format, version 0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

LARGEST = 1024
"""Bytes: a pointer is smaller."""

LFS = re.compile(
    rb"version (?:https://git-lfs\.github\.com/spec/v1|https://hawser\.github\.com/spec/v1|http://git-media\.io/v/2)\r?\n"
    rb"((?:ext-\d-[\w.-]+ sha256:[0-9a-f]{64}\r?\n)*)"
    rb"oid sha256:([0-9a-f]{64})\r?\n"
    rb"size (\d{1,18})(?:\r?\n)?"
)
XET = re.compile(rb"# xet version 0\r?\n(?:filesize = (\d{1,18})\r?\n|hash = '([0-9a-f]{64})'\r?\n?){2}")


@dataclass(frozen=True, slots=True)
class Pointer:
    """What stands in for a file: its size, and its SHA-256 (LFS) or Merkle hash (Xet)."""

    oid: str
    size: int
    kind: Literal["lfs", "xet"] = "lfs"
    extended: bool = False
    """Whether an LFS extension rewrote the content: then what the store holds is not the file."""


def parse_pointer(content: bytes) -> Pointer | None:
    """The pointer that ``content`` is, None where it is something else."""
    if len(content) >= LARGEST:
        return None
    if found := LFS.fullmatch(content):
        extensions, oid, size = found.groups()
        return Pointer(oid.decode("ascii"), int(size), extended=bool(extensions))
    found = XET.fullmatch(content)
    if found is None or None in found.groups():
        return None
    return Pointer(found.group(2).decode("ascii"), int(found.group(1)), "xet")
