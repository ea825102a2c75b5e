"""Writing safetensors as a stream: header first, every tensor at an offset known before a byte is computed.

A file is cut into pieces (rows of one tensor) that may be written in any order, by any thread, once each:
that is what makes a merge parallel and resumable. Tensors that are somebody's bytes unchanged are moved by
the kernel (``copy_file_range``) and never enter this process.
"""

from __future__ import annotations

import errno
import json
import os
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from adaptool.errors import DiskError
from adaptool.tensors.dtypes import Array, bytes_of
from adaptool.tensors.files import FileHandle, open_file
from adaptool.tensors.scratch import Scratch
from adaptool.tensors.store import Extent, Store, TensorInfo

PIECE_BYTES = 8 << 20
"""Rows computed and written at a time, per worker."""

COPY_BYTES = 64 << 20
"""Bytes moved by one copy: small enough to show progress and to resume."""

COPY_UNSUPPORTED = {errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF}


class Plan(Protocol):
    """A file to be written: all that is known of it before a tensor is computed."""

    @property
    def name(self) -> str: ...
    @property
    def infos(self) -> tuple[TensorInfo, ...]: ...
    @property
    def header(self) -> bytes: ...
    @property
    def offsets(self) -> Mapping[str, int]: ...
    @property
    def size(self) -> int: ...


@dataclass(frozen=True)
class FilePlan:
    """One output file: its header and where each tensor goes."""

    name: str
    infos: tuple[TensorInfo, ...]
    metadata: Mapping[str, str]

    @cached_property
    def header(self) -> bytes:
        """The length and the JSON header, padded with spaces so that tensors begin at a multiple of 8."""
        entries: dict[str, object] = {"__metadata__": dict(self.metadata)} if self.metadata else {}
        offset = 0
        for info in self.infos:
            stop = offset + info.nbytes
            entries[info.name] = {"dtype": info.dtype.name, "shape": list(info.shape), "data_offsets": [offset, stop]}
            offset = stop
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text

    @cached_property
    def offsets(self) -> Mapping[str, int]:
        """Absolute byte offset of each tensor."""
        result, offset = {}, len(self.header)
        for info in self.infos:
            result[info.name] = offset
            offset += info.nbytes
        return result

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(info.nbytes for info in self.infos)

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + self.tensor_bytes


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows of one tensor, and where they go."""

    file: str
    tensor: str
    start: int
    stop: int
    offset: int
    nbytes: int
    copied_from: Extent | None


def plan_files(store: Store, groups: Sequence[tuple[str, Sequence[str]]]) -> list[FilePlan]:
    """One FilePlan per (file name, tensors); within a file, wider types first so that every tensor is aligned."""
    return [
        FilePlan(name, tuple(sorted((store[t] for t in tensors), key=_alignment)), dict(store.metadata))
        for name, tensors in groups
    ]


def _alignment(info: TensorInfo) -> int:
    return -info.dtype.bits


def shard_groups(store: Store, limit: int) -> list[tuple[str, list[str]]]:
    """Tensors in order, cut into files of at most ``limit`` bytes (a larger tensor has a file to itself)."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, info in store.infos.items():
        if shards[-1] and size + info.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += info.nbytes
    return list(zip(shard_names(len(shards)), shards, strict=True))


def shard_names(count: int) -> list[str]:
    """``model.safetensors``, or ``model-00001-of-0000N.safetensors`` …, as transformers names them."""
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]


def index_json(plans: Sequence[FilePlan]) -> str:
    """The index of a sharded checkpoint; ``total_size`` counts tensor bytes, as transformers does."""
    weight_map = {info.name: plan.name for plan in plans for info in plan.infos}
    total = sum(plan.tensor_bytes for plan in plans)
    parameters = sum(info.size for plan in plans for info in plan.infos)
    metadata = {"total_parameters": parameters, "total_size": total}
    return json.dumps({"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}, indent=2) + "\n"


def pieces_of(store: Store, plans: Sequence[Plan], nbytes: int | None = None) -> Iterator[Piece]:
    """Every piece of every file, in file order: long copies in parts, computed tensors by the store's own cuts.

    ``nbytes`` is about how much is computed at a time; PIECE_BYTES unless said.
    """
    for plan in plans:
        for info in plan.infos:
            offset = plan.offsets[info.name]
            extent = store.extent(info.name)
            if extent is not None:
                for done in range(0, info.nbytes, COPY_BYTES):
                    length = min(COPY_BYTES, info.nbytes - done)
                    source = Extent(extent.path, extent.offset + done, length)
                    yield Piece(plan.name, info.name, 0, 0, offset + done, length, source)
            elif info.nbytes:
                for start, stop in store.spans(info.name, nbytes or PIECE_BYTES):
                    at = offset + start * info.row_nbytes
                    yield Piece(plan.name, info.name, start, stop, at, (stop - start) * info.row_nbytes, None)


class PieceWriter:
    """Writes pieces into the files of a folder; one object serves all threads."""

    def __init__(self, store: Store, folder: Path, plans: Sequence[Plan]) -> None:
        self._store = store
        self._plans = {plan.name: plan for plan in plans}
        self._folder = folder
        self._scratch = Scratch()
        self._sources: dict[Path, int] = {}
        self._lock = threading.Lock()
        self._descriptors = {name: self._open(plan) for name, plan in self._plans.items()}

    def _open(self, plan: Plan) -> int:
        path = self._folder / plan.name
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            if os.fstat(descriptor).st_size != plan.size:
                os.ftruncate(descriptor, plan.size)
            _write(descriptor, memoryview(plan.header), 0)
        except OSError as error:
            raise DiskError(f"{path}: {error.strerror}", hint=_hint(error)) from error
        return descriptor

    def write(self, piece: Piece) -> None:
        """Compute or copy one piece into its place."""
        descriptor = self._descriptors[piece.file]
        try:
            if piece.copied_from is not None:
                self._copy(piece.copied_from, descriptor, piece.offset)
                return
            rows = self._store.read(piece.tensor, piece.start, piece.stop, self._buffer(piece))
            _write(descriptor, bytes_of(rows), piece.offset)
        except OSError as error:
            raise DiskError(f"{self._folder / piece.file}: {error.strerror}", hint=_hint(error)) from error

    def read_back(self, piece: Piece, row: int, count: int) -> Array:
        """Rows of a written tensor as they lie in the file."""
        info = self._store[piece.tensor]
        out = np.empty((count, info.width), info.dtype.storage)
        at = self._plans[piece.file].offsets[piece.tensor] + row * info.row_nbytes
        os.preadv(self._descriptors[piece.file], [bytes_of(out)], at)
        return out

    def _buffer(self, piece: Piece) -> Array:
        """This thread's buffer, as the rows of ``piece``."""
        info = self._store[piece.tensor]
        return self._scratch.rows("piece", piece.stop - piece.start, info.width, info.dtype.storage)

    def _copy(self, source: Extent, descriptor: int, offset: int) -> None:
        with self._lock:
            origin = self._sources.get(source.path)
            if origin is None:
                origin = self._sources[source.path] = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC)
        done = 0
        while done < source.length:
            count = _copy_range(origin, descriptor, source.length - done, source.offset + done, offset + done)
            if count == 0:
                raise DiskError(f"{source.path}: ends early", hint="it changed while it was being read")
            done += count

    def sync(self) -> None:
        """Wait until everything written is on the disk."""
        for descriptor in self._descriptors.values():
            os.fsync(descriptor)

    def close(self) -> None:
        """Release every descriptor."""
        for descriptor in (*self._descriptors.values(), *self._sources.values()):
            os.close(descriptor)
        self._descriptors, self._sources = {}, {}


@dataclass(frozen=True, eq=False)
class Written(Store):
    """What ``plans`` put into a folder, read back from there: for a second output made of the first."""

    folder: Path
    plans: Sequence[Plan]

    @cached_property
    def infos(self) -> Mapping[str, TensorInfo]:
        return {info.name: info for plan in self.plans for info in plan.infos}

    @cached_property
    def _homes(self) -> Mapping[str, Plan]:
        return {info.name: plan for plan in self.plans for info in plan.infos}

    @cached_property
    def _handles(self) -> Mapping[str, FileHandle]:
        return {plan.name: open_file(self.folder / plan.name) for plan in self.plans}

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Array | None = None) -> Array:
        info, start, stop = self.span(name, start, stop)
        if out is None:
            out = np.empty((stop - start, info.width), info.dtype.storage)
        plan = self._homes[name]
        self._handles[plan.name].read_into(out, plan.offsets[name] + start * info.row_nbytes)
        return out

    def extent(self, name: str) -> Extent | None:
        plan = self._homes[self[name].name]
        return Extent(self.folder / plan.name, plan.offsets[name], self[name].nbytes)

    def __str__(self) -> str:
        return str(self.folder)


def _copy_range(source: int, target: int, length: int, source_offset: int, target_offset: int) -> int:
    """Move bytes inside the kernel; through a small buffer where the kernel or the file system cannot."""
    if hasattr(os, "copy_file_range"):
        try:
            return os.copy_file_range(source, target, length, source_offset, target_offset)
        except OSError as error:
            if error.errno not in COPY_UNSUPPORTED:
                raise
    data = os.pread(source, min(length, PIECE_BYTES), source_offset)
    _write(target, memoryview(data), target_offset)
    return len(data)


def _write(descriptor: int, data: memoryview, offset: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], offset + done)


def _hint(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk filled up: make room, then run again with --resume"
    return "what was written is kept: run again with --resume"
