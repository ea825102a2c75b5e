"""What lies in an adapter's folder: every entry with its kind, its size and its first bytes, none of it trusted.

The walk is bounded, follows no link and opens nothing but regular files, so that a pipe cannot stall it, a loop cannot
catch it and 100 000 files do not hold it up. What it could not look at is kept: silence would read as approval.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from adaptool.errors import AdaptoolError
from adaptool.rules.files.magic import HEAD, Format, identify
from adaptool.tensors.files import open_file

if TYPE_CHECKING:
    from adaptool.rules.subject import Subject

ENTRIES_LIMIT = 10_000
DEPTH_LIMIT = 8
"""Folders in folders: a Trainer's output with its checkpoints, logs and download caches has four."""

NOT_ENTERED = (".git",)

Kind = Literal["file", "folder", "link", "pipe", "socket", "device"]
Goal = Literal["inside", "cache", "outside", "nowhere", "loop"]
"""Where a link leads: within the folder, into the blobs of the hub cache the folder is a snapshot of, …"""

_KINDS: dict[int, Kind] = {
    stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link", stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry, as ``lstat`` sees it."""

    name: str
    """Its path from the adapter's folder, with slashes."""
    path: Path
    kind: Kind
    size: int
    """Of the file, or of the file a link within the folder or its cache leads to."""
    head: bytes = b""
    format: Format | None = None
    """What its first bytes say it is."""
    target: str = ""
    """Of a link, as it is written."""
    goal: Goal | None = None

    @property
    def base(self) -> str:
        """Its name without folders."""
        return self.name.rpartition("/")[2]

    @property
    def is_top(self) -> bool:
        """Whether it lies in the folder itself and not below."""
        return "/" not in self.name

    @property
    def is_file(self) -> bool:
        """Whether it has bytes to look at."""
        return self.kind == "file" or (self.kind == "link" and self.goal in ("inside", "cache") and self.size >= 0)

    @property
    def suffix(self) -> str:
        """``.json``, in lower case."""
        stem, dot, ending = self.base.rpartition(".")
        return f"{dot}{ending}".lower() if stem else ""

    @property
    def shown(self) -> str:
        """Its name as it can be printed."""
        return printable(self.name)


@dataclass(frozen=True)
class Listing:
    """A folder as far as it was looked through."""

    entries: tuple[Entry, ...]
    gaps: tuple[str, ...] = field(default=())
    """What could not be looked at, and why: an unreadable file, a folder too deep, entries too many."""

    @cached_property
    def by_name(self) -> dict[str, Entry]:
        """Every entry by its path from the folder."""
        return {entry.name: entry for entry in self.entries}

    @cached_property
    def files(self) -> tuple[Entry, ...]:
        """Those with bytes."""
        return tuple(entry for entry in self.entries if entry.is_file)


def listing(subject: Subject) -> Listing:
    """The folder of ``subject``, looked through once."""
    return subject.once("listing", lambda: look(subject.folder))


def look(folder: Path) -> Listing:
    """Look a folder through; what cannot be read is noted and raises nothing."""
    gaps: list[str] = []
    root = Path(os.path.realpath(folder))
    entries = tuple(islice(_walk(root, "", 0, _Places(root), gaps), ENTRIES_LIMIT + 1))
    if len(entries) > ENTRIES_LIMIT:
        gaps.append(f"more than {ENTRIES_LIMIT} files and folders; the others were not looked at")
    return Listing(entries[:ENTRIES_LIMIT], tuple(gaps))


def printable(name: str) -> str:
    """A stranger's name, short, without what a terminal would obey or hide."""
    short = name if len(name) <= 200 else f"{name[:200]}…"
    return short if short.isprintable() else ascii(short)[1:-1]


class _Places:
    """Where links may lead."""

    def __init__(self, root: Path) -> None:
        self.root = root
        snapshots = [place.parent for place in (root, *root.parents)[:DEPTH_LIMIT] if place.parent.name == "snapshots"]
        repository = snapshots[0].parent if snapshots else root.parent.parent
        self.blobs = repository / "blobs"

    def goal(self, path: Path) -> tuple[Goal, Path | None]:
        try:
            real = Path(os.path.realpath(path, strict=True))
        except OSError as error:
            return ("loop" if error.errno == errno.ELOOP else "nowhere"), None
        if real.is_relative_to(self.root):
            return "inside", real
        return ("cache" if real.parent == self.blobs else "outside"), real


def _walk(folder: Path, prefix: str, depth: int, places: _Places, gaps: list[str]) -> Iterator[Entry]:
    try:
        with os.scandir(folder) as scan:
            found = sorted(islice(scan, ENTRIES_LIMIT + 1), key=lambda item: item.name)
    except OSError as error:
        gaps.append(f"{printable(prefix) or 'the folder'} cannot be listed: {error.strerror}")
        return
    below: list[Entry] = []
    for item in found:
        entry = _entry(Path(item.path), prefix + item.name, places, gaps)
        if entry is not None:
            yield entry
            if entry.kind == "folder" and entry.base not in NOT_ENTERED:
                below.append(entry)
    for entry in below:
        if depth + 1 >= DEPTH_LIMIT:
            gaps.append(f"{entry.shown} lies {DEPTH_LIMIT} folders deep and was not entered")
        else:
            yield from _walk(entry.path, f"{entry.name}/", depth + 1, places, gaps)


def _entry(path: Path, name: str, places: _Places, gaps: list[str]) -> Entry | None:
    try:
        status = os.lstat(path)
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "device")
        if kind == "link":
            return _link(path, name, places, gaps)
    except OSError as error:
        gaps.append(f"{printable(name)}: {error.strerror}")
        return None
    head = _head(path, name, gaps) if kind == "file" else b""
    return Entry(name, path, kind, status.st_size, head, identify(head))


def _link(path: Path, name: str, places: _Places, gaps: list[str]) -> Entry:
    target = str(path.readlink())
    goal, real = places.goal(path)
    size, head = -1, b""
    if real is not None and goal in ("inside", "cache") and stat.S_ISREG((status := real.stat()).st_mode):
        size, head = status.st_size, _head(real, name, gaps)
    return Entry(name, path, "link", size, head, identify(head), target, goal)


def _head(path: Path, name: str, gaps: list[str]) -> bytes:
    try:
        handle = open_file(path)
        try:
            return handle.read(0, min(HEAD, handle.size))
        finally:
            handle.close()
    except AdaptoolError as error:
        gaps.append(f"{printable(name)}: {error.message.removeprefix(f'{path}: ')}")
        return b""
