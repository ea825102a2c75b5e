"""Pointers that Git keeps in place of large files: Git LFS's, and git-xet's.

Source: the Git LFS specification (docs/spec.md of git-lfs); git-xet's format, version 0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from adaptool.errors import NotFetchedError
from adaptool.tensors.files import FileHandle

LARGEST = 1024
"""Bytes: a pointer is smaller."""

LFS = re.compile(
    rb"version (?:https://git-lfs\.github\.com/spec/v1|https://hawser\.github\.com/spec/v1|http://git-media\.io/v/2)\r?\n"
    rb"((?:ext-\d-[\w.-]+ sha256:[0-9a-f]{64}\r?\n)*)"
    rb"oid sha256:([0-9a-f]{64})\r?\n"
    rb"size (\d{1,18})(?:\r?\n)?"
)
XET = re.compile(rb"# xet version 0\r?\n(?:filesize = (\d{1,18})\r?\n|hash = '([0-9a-f]{64})'\r?\n?){2}")

FETCHED_BY: dict[Path, str] = {}
"""The command that fetches what a pointer stands for, where whoever laid it out knows better than "git lfs pull"."""


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


def pointer_in(handle: FileHandle) -> Pointer | None:
    """The pointer that an open file is, None where it is something else."""
    return parse_pointer(handle.read(0, handle.size)) if handle.size < LARGEST else None


def refuse_pointer(handle: FileHandle, what: str = "the weights") -> None:
    """Raise NotFetchedError where a file is a pointer, well-formed or not, and ``what`` was meant to be there."""
    head = handle.read(0, min(LARGEST, handle.size))
    if not head.startswith((b"version https://git-lfs", b"# xet version ")):
        return
    pointer = pointer_in(handle)
    size = f"{pointer.size:,} bytes, " if pointer else ""
    name, command = ("Xet", "git xet checkout") if head.startswith(b"#") else ("Git LFS", "git lfs pull")
    raise NotFetchedError(
        f"{handle.path}: a {name} pointer, not {what} ({size}not fetched)",
        hint=f"fetch them with: {FETCHED_BY.get(handle.path, command)}",
        defect="lfs-pointer",
    )
