"""Files as byte ranges: opened once, read by ``pread`` from any thread, errors worded."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from adaptool.errors import DiskError, FormatError, NotFoundError
from adaptool.tensors.dtypes import Array, bytes_of


@dataclass
class FileHandle:
    """An open regular file and its size in bytes; closed with the object."""

    path: Path
    descriptor: int
    size: int

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``; fewer raises FormatError."""
        buffer = bytearray(length)
        self.read_into(memoryview(buffer), offset)
        return bytes(buffer)

    def read_all(self, limit: int) -> bytes:
        """The whole file, if it is no larger than ``limit`` bytes."""
        if self.size > limit:
            message = f"{self.path}: {self.size} bytes, more than the {limit} such a file may have"
            raise FormatError(message, defect="too-large")
        return self.read(0, self.size)

    def read_into(self, out: Array | memoryview, offset: int) -> None:
        """Fill ``out`` (contiguous) with the bytes from ``offset``."""
        view = out if isinstance(out, memoryview) else bytes_of(out)
        done = 0
        while done < len(view):
            try:
                count = os.preadv(self.descriptor, [view[done:]], offset + done)
            except OSError as error:
                raise DiskError(f"{self.path}: cannot be read: {error.strerror}", defect="unreadable") from error
            if count == 0:
                message = f"{self.path}: ends at byte {offset + done}, inside a tensor or header"
                raise FormatError(message, defect="truncated")
            done += count

    def close(self) -> None:
        """Release the descriptor; a second call does nothing."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __del__(self) -> None:
        self.close()


def open_file(path: Path) -> FileHandle:
    """Open a regular file for reading; a folder, a pipe or a missing path is a worded error."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such file", defect="missing") from None
    except OSError as error:
        raise DiskError(f"{path}: cannot be opened: {error.strerror}", defect="unreadable") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise FormatError(f"{path}: not a regular file", defect="not-a-file")
    return FileHandle(path, descriptor, status.st_size)
