"""The layout of torch.save before PyTorch 1.6: five pickles, then each storage's length and bytes.

    magic number · protocol 1001 · {"little_endian": …} · the value · [storage keys] · (u64 elements, bytes) per key

Old adapters are saved so, and anyone still can (``_use_new_zipfile_serialization=False``).
Source: torch/serialization.py, ``_legacy_save`` and ``_legacy_load``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from adaptool.errors import FormatError, UnsupportedError
from adaptool.tensors.allowlist import StorageRef, shown
from adaptool.tensors.files import FileHandle
from adaptool.tensors.opcodes import PICKLE_LIMIT, interpret

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001

_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes of one storage in a file."""

    offset: int
    length: int


class Window:
    """The beginning of a file, read as pickletools reads: from memory a chunk at a time, and never past ``limit``."""

    def __init__(self, handle: FileHandle, limit: int) -> None:
        self._handle = handle
        self._end = min(handle.size, limit)
        self._chunk = b""
        self._start = 0
        self._at = 0

    def tell(self) -> int:
        return self._start + self._at

    def read(self, size: int) -> bytes:
        self._hold(size)
        data = self._chunk[self._at : self._at + size]
        self._at += len(data)
        return data

    def readline(self) -> bytes:
        while (newline := self._chunk.find(b"\n", self._at)) < 0 and self._start + len(self._chunk) < self._end:
            self._hold(2 * (len(self._chunk) - self._at) + 1)
        return self.read((newline + 1 or len(self._chunk)) - self._at)

    def _hold(self, size: int) -> None:
        """Have the next ``size`` bytes in memory, or all there are."""
        if self._at + size > len(self._chunk):
            here = self.tell()
            length = min(max(size, _CHUNK), self._end - here)
            self._chunk, self._start, self._at = self._handle.read(here, length), here, 0


def read_legacy(handle: FileHandle) -> tuple[object, Mapping[str, Span]]:
    """The value saved, and where each of its storages lies."""
    where = str(handle.path)
    window = Window(handle, PICKLE_LIMIT)
    storages: dict[str, StorageRef] = {}
    magic, protocol, system = (interpret(window, where) for _ in range(3))
    if magic != MAGIC or protocol != PROTOCOL:
        raise UnsupportedError(f"{where}: not the protocol {PROTOCOL} of torch.save")
    if type(system) is not dict or system.get("little_endian") is not True:
        raise UnsupportedError(f"{where}: not written on a little-endian machine")
    value = interpret(window, where, storages)
    keys = interpret(window, where)
    if type(keys) is not list or not all(type(key) is str for key in keys) or set(keys) != storages.keys():
        raise FormatError(f"{where}: the storages listed are not those its tensors use")
    return value, _spans(handle, [storages[key] for key in keys], window.tell())


def _spans(handle: FileHandle, storages: list[StorageRef], at: int) -> Mapping[str, Span]:
    spans: dict[str, Span] = {}
    for storage in storages:
        numel = int.from_bytes(handle.read(at, 8), "little")
        length = storage.whole * storage.dtype.itemsize
        at += 8
        if numel != storage.whole or storage.key in spans or at + length > handle.size:
            raise FormatError(
                f"{handle.path}: the storage {shown(storage.key)} is not of the size its tensors say",
                hint="the file is truncated or damaged: fetch it again",
            )
        spans[storage.key] = Span(at, length)
        at += length
    if at != handle.size:
        raise FormatError(f"{handle.path}: {handle.size - at} trailing bytes after the last tensor")
    return spans


def refuse_plain(handle: FileHandle) -> NoReturn:
    """Raise UnsupportedError for a pickle that torch.save did not write, naming what it asks for if anything."""
    interpret(Window(handle, PICKLE_LIMIT), str(handle.path))
    raise UnsupportedError(f"{handle.path}: a pickle that torch.save did not write")
