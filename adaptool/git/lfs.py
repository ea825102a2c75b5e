"""Git LFS's own store of a repository: the content of an LFS file at any revision, without running git-lfs.

Source: git-lfs-config(5) for ``lfs.storage``; the store is ``objects/aa/bb/<oid>`` below it, shared by all worktrees.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from adaptool.errors import FormatError, NotFetchedError
from adaptool.git.repository import Repository
from adaptool.git.working import is_content
from adaptool.tensors.pointers import Pointer

MOST_ALTERNATES = 64


@dataclass(frozen=True)
class LfsStore:
    """Where the LFS objects of one repository lie on this disk."""

    repository: Repository

    @cached_property
    def folders(self) -> tuple[Path, ...]:
        """The ``objects`` folders that are searched: the repository's own, and those of the ones it borrows from."""
        common = self.repository.common
        told = os.fsdecode(self.repository.run("config", "--null", "--get", "lfs.storage", okay=(0, 1)))
        own = common / (told.rstrip("\0") or "lfs") / "objects"
        return own, *(objects.parent / "lfs" / "objects" for objects in _alternates(common / "objects"))

    def find(self, pointer: Pointer) -> Path | None:
        """The object a pointer stands for, its size checked; None where it was not fetched."""
        if pointer.kind != "lfs" or pointer.extended:
            return None
        candidates = (folder / pointer.oid[:2] / pointer.oid[2:4] / pointer.oid for folder in self.folders)
        return next((path for path in candidates if _has_size(path, pointer.size)), None)

    def open(self, pointer: Pointer, name: str) -> Path:
        """The object, its SHA-256 checked; ``name`` is what messages call the file.

        Raises NotFetchedError where it is not here, FormatError where it is damaged.
        """
        found = self.find(pointer)
        if found is None:
            raise not_fetched(pointer, name)
        if not _verified(found, pointer):
            raise FormatError(
                f"{name}: the LFS object {pointer.oid} is damaged in this clone's store",
                hint="see: git lfs fsck", defect="lfs-damaged",
            )  # fmt: skip
        return found


def not_fetched(pointer: Pointer, name: str, revision: str = "") -> NotFetchedError:
    """The error for a file of which Git holds a pointer only; ``name`` is its path from the repository's root."""
    if pointer.kind == "xet":
        return NotFetchedError(f"{name}: a Xet pointer, not the file ({pointer.size:,} bytes)", hint="git xet checkout")
    said = f"{name}: a Git LFS pointer, not the file ({pointer.size:,} bytes), and it was not fetched"
    return NotFetchedError(said, hint=fetching(name, revision))


def fetching(name: str, revision: str = "") -> str:
    """The command that fetches one LFS file; of another revision than the one checked out it only fills the store."""
    what = f"--include={_quoted(name)}"
    return f"git lfs fetch origin {_quoted(revision)} {what}" if revision else f"git lfs pull {what}"


def _quoted(text: str) -> str:
    from shlex import quote

    return quote(text)


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.is_file() and path.stat().st_size == size
    except OSError:
        return False


@lru_cache(maxsize=4096)
def _verified(path: Path, pointer: Pointer) -> bool:
    return is_content(path, pointer)


def _alternates(objects: Path) -> tuple[Path, ...]:
    """The object stores a clone made with --shared or --reference borrows from, theirs included."""
    found: list[Path] = []
    waiting = [objects]
    while waiting and len(found) < MOST_ALTERNATES:
        folder = waiting.pop(0)
        try:
            lines = (folder / "info" / "alternates").read_bytes().splitlines()
        except OSError:
            continue
        named = ((folder / os.fsdecode(line)).resolve() for line in lines if line and not line.startswith(b"#"))
        new = [other for other in named if other not in (*found, objects)]
        found += new
        waiting += new
    return tuple(found)
