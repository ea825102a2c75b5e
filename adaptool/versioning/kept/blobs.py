"""Blobs of one repository for several threads, through processes that stay open until the last side is forgotten."""

from __future__ import annotations

import weakref
from pathlib import Path
from threading import Lock

from adaptool.git.reader import Reader, not_here
from adaptool.git.repository import Repository

IN_MEMORY = 32 << 20
"""Bytes of a blob that is held while it is written into a file; git writes larger ones by itself."""

SMALL = 1024
"""Bytes of a blob that is kept: pointers and configs are asked for more than once."""


class Blobs:
    """Reads blobs one at a time, whichever thread asks."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self._lock = Lock()
        self._reader: Reader | None = None
        self._sizes: dict[str, int] = {}
        self._small: dict[str, bytes] = {}

    def size(self, oid: str) -> int:
        """Bytes. Raises NotFetchedError where this clone lacks the blob."""
        with self._lock:
            if oid not in self._sizes:
                found = self._open().size(oid)
                if found is None:
                    raise not_here(oid)
                self._sizes[oid] = found
            return self._sizes[oid]

    def read(self, oid: str, limit: int) -> bytes:
        """A blob, if it is no larger than ``limit`` bytes; raises NotFetchedError likewise."""
        if oid in self._small:
            return self._small[oid]
        with self._lock:
            content = self._open().read(oid, limit)
        if len(content) < SMALL:
            self._small[oid] = content
        return content

    def copy(self, oid: str, out: Path) -> None:
        """Write a blob into a new file."""
        if self.size(oid) > IN_MEMORY:
            self.repository.copy(oid, out)
        else:
            out.write_bytes(self.read(oid, IN_MEMORY))

    def _open(self) -> Reader:
        if self._reader is None:
            self._reader = self.repository.reader()
            weakref.finalize(self, self._reader.__exit__, None, None, None)
        return self._reader
