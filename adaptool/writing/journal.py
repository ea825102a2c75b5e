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

    def __init__(self, folder: Path, identity: str, *, resume: bool, pieces: int = 2**32) -> None:
        self.path = folder / JOURNAL_NAME
        title = f"{identity} {_boot_id()}\n".encode()
        self.done = _recorded(self.path, title, pieces) if resume else None
        """Numbers of the pieces an earlier run finished; None where there is nothing to go on from."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self.path, flags if self.done is not None else flags | os.O_TRUNC, 0o666)
        if self.done is None:
            os.write(self._descriptor, title)
        else:  # a last record may be cut short
            os.ftruncate(self._descriptor, len(title) + (self.path.stat().st_size - len(title)) // 4 * 4)

    def record(self, number: int) -> None:
        """Piece ``number`` is written."""
        os.write(self._descriptor, struct.pack("<I", number))

    def close(self) -> None:
        """Release the file."""
        os.close(self._descriptor)


def _recorded(path: Path, title: bytes, pieces: int) -> set[int] | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    if not data.startswith(title):
        return None
    body = data[len(title) :]
    numbers = {number for (number,) in struct.iter_unpack("<I", body[: len(body) // 4 * 4])}
    return numbers if max(numbers, default=0) < pieces else None


def _boot_id() -> str:
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return "unknown"
