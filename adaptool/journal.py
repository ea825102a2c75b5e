"""The journal of a write in progress: which pieces lie in the files already, for ``--resume``.

One line names what is being made; then four bytes per finished piece, appended after its bytes were written.
A killed process leaves its bytes with the kernel, so every recorded piece is good. A machine that went down
may have lost any of them, so a journal from an earlier boot counts for nothing.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

JOURNAL_NAME = ".adaptool-journal"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Journal:
    """Records finished pieces by their number; appends are atomic, so threads may share it."""

    def __init__(self, folder: Path, identity: str, *, resume: bool) -> None:
        self.path = folder / JOURNAL_NAME
        title = f"{identity} {_boot_id()}\n".encode()
        self.done = _recorded(self.path, title) if resume else None
        """Numbers of the pieces an earlier run finished; None where there is nothing to go on from."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        if self.done is None:
            self._descriptor = os.open(self.path, flags | os.O_TRUNC, 0o666)
            os.write(self._descriptor, title)
        else:
            self._descriptor = os.open(self.path, flags)
            os.ftruncate(self._descriptor, len(title) + 4 * (self._records(title)))

    def _records(self, title: bytes) -> int:
        return (self.path.stat().st_size - len(title)) // 4

    def record(self, number: int) -> None:
        """Piece ``number`` is written."""
        os.write(self._descriptor, struct.pack("<I", number))

    def close(self, *, remove: bool = False) -> None:
        """Release the file, and remove it once the whole is complete."""
        os.close(self._descriptor)
        if remove:
            self.path.unlink()


def _recorded(path: Path, title: bytes) -> set[int] | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    if not data.startswith(title):
        return None
    body = data[len(title) :]
    return {number for (number,) in struct.iter_unpack("<I", body[: len(body) // 4 * 4])}


def _boot_id() -> str:
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return "unknown"
