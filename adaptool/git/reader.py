"""Many small blobs through two processes: the configs and pointers of thousands of adapters in a second or two."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

from adaptool.errors import GitError, NotFetchedError
from adaptool.git.process import start_git

OID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


class Reader:
    """Asks git for objects one by one and reads its answers; a context manager, used by one thread."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self._folder, self._variables = folder, variables
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def size(self, oid: str) -> int | None:
        """A blob's size in bytes; None where this clone lacks it."""
        answer = self._ask("--batch-check", oid)
        return None if answer is None else int(answer)

    def read(self, oid: str, limit: int) -> bytes:
        """A blob, if it is no larger than ``limit`` bytes. Raises NotFetchedError where this clone lacks it."""
        size = self.size(oid)
        if size is None:
            raise not_here(oid)
        if size > limit:
            raise GitError(f"object {oid}: {size} bytes, more than the {limit} such a file may have")
        if self._ask("--batch", oid) is None:
            raise not_here(oid)  # it went while it was asked for
        content = self._stream("--batch").read(size + 1)
        if len(content) != size + 1:
            raise GitError(f"object {oid} cannot be read", hint="is the repository damaged? try: git fsck")
        return content[:-1]

    def _ask(self, how: str, oid: str) -> str | None:
        """The size git tells for an object, None where it has none."""
        if not OID.fullmatch(oid):
            raise GitError(f"{oid!r} is no object")
        process = self._process(how)
        assert process.stdin is not None
        try:
            process.stdin.write(f"{oid}\n".encode("ascii"))
            process.stdin.flush()
        except BrokenPipeError:
            raise GitError(f"git cat-file ended; the object asked for was {oid}") from None
        answer = self._stream(how).readline().decode("ascii", "replace").split()
        match answer:
            case [_, "missing"]:
                return None
            case [_, "blob", size]:
                return size
            case [_, kind, _] if how == "--batch-check":
                raise GitError(f"object {oid} is a {kind}, not a file's content")
        raise GitError(f"object {oid} cannot be read", hint="is the repository damaged? try: git fsck")

    def _process(self, how: str) -> subprocess.Popen[bytes]:
        if how not in self._running:
            self._running[how] = start_git(self._folder, "cat-file", how, variables=self._variables)
        return self._running[how]

    def _stream(self, how: str) -> IO[bytes]:
        stream = self._running[how].stdout
        assert stream is not None
        return stream

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._running.values():
            process.kill()  # it only ever reads
            process.communicate()
        self._running.clear()


def not_here(oid: str) -> NotFetchedError:
    """The error for an object this clone does not have."""
    return NotFetchedError(
        f"object {oid} is not in this clone",
        hint="it was made with --filter or --depth: check that revision out, or fetch it all (git fetch --unshallow)",
    )
