"""Importance matrices: how much each input column of a weight matters, as llama-imatrix measured it.

Two formats: a GGUF with ``<tensor>.in_sum2`` (sums of squared activations) and ``<tensor>.counts``
(how many were summed, one per expert), and the older binary. Only a table of contents is kept: the
sums of a large mixture of experts are hundreds of megabytes, read when their tensor's turn comes.
Source: common/imatrix-loader.cpp and tools/quantize/quantize.cpp of llama.cpp b11434.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adaptool.errors import FormatError, MismatchError
from adaptool.tensors.dtypes import F32
from adaptool.tensors.files import FileHandle, open_file
from adaptool.tensors.ggml.values import KeyValues, Value, ValueType
from adaptool.tensors.gguf import MAGIC, open_single
from adaptool.tensors.store import Extent, Store

SUMS, COUNTS = ".in_sum2", ".counts"
SMALLEST_ENTRY = 16
"""Bytes: three lengths and one value."""

Weights = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor's sums in the file, and what to divide them by: one number, or one per expert (0: never seen)."""

    sums: Extent
    divisors: tuple[float, ...]

    @property
    def size(self) -> int:
        """How many sums there are."""
        return self.sums.length // 4


@dataclass(frozen=True, slots=True)
class Imatrix:
    """An importance matrix by tensor name; ``datasets`` and ``chunks`` say what it was measured on."""

    path: Path
    entries: Mapping[str, Entry]
    datasets: tuple[str, ...] = ()
    chunks: int = 0

    def weights(self, tensor_name: str, columns: int, experts: int = 1) -> Weights | None:
        """The weight of every column, shape (experts, columns), or None where the tensor was not measured.

        An expert that the text never reached weighs its columns alike. Sums of another size raise
        MismatchError, but for the token embeddings', which are ignored, as llama-quantize does.
        """
        if self.fits(tensor_name, columns, experts):
            return self._means(self.entries[tensor_name], open_file(self.path)).reshape(experts, columns)
        return None

    def fits(self, tensor_name: str, columns: int, experts: int = 1) -> bool:
        """Whether there are weights for a tensor of this size; MismatchError where they have another."""
        entry = self.entries.get(tensor_name)
        if entry is None:
            return False
        if entry.size == columns * experts:
            return True
        if tensor_name in ("token_embd.weight", "per_layer_token_embd.weight"):
            return False
        raise MismatchError(
            f"{self.path}: {entry.size} weights for {tensor_name}, which has {columns * experts}",
            hint="the imatrix was measured on another model",
        )

    def _means(self, entry: Entry, handle: FileHandle) -> Weights:
        sums = np.frombuffer(handle.read(entry.sums.offset, entry.sums.length), "<f4").reshape(len(entry.divisors), -1)
        divisors = np.array(entry.divisors, np.float32)[:, None]
        with np.errstate(all="ignore"):
            means = sums / divisors
        return np.where(divisors > 0, means, np.float32(1))

    def checked(self) -> Imatrix:
        """This imatrix, once all it holds is finite; FormatError names the first tensor that is not."""
        handle = open_file(self.path)
        for name, entry in self.entries.items():
            if not np.isfinite(self._means(entry, handle)).all():
                raise FormatError(f"{self.path}: the weights of {name} are not finite")
        return self


def open_imatrix(path: Path) -> Imatrix:
    """Open an imatrix of either format, known by how it begins; FormatError says what is wrong with it."""
    handle = open_file(path)
    if handle.size >= len(MAGIC) and handle.read(0, len(MAGIC)) == MAGIC:
        return _from_gguf(path).checked()
    return _from_legacy(path, handle).checked()


def _from_gguf(path: Path) -> Imatrix:
    store = open_single(path)
    names = [name.removesuffix(SUMS) for name in store if name.endswith(SUMS)]
    halves = {name + end for name in names for end in (SUMS, COUNTS)}
    counted = {name for name in store if name.endswith((SUMS, COUNTS))}
    if not names or halves != counted:
        odd = sorted(halves ^ counted)
        raise FormatError(
            f"{path}: {odd[0]} has no counterpart" if odd else f"{path}: a GGUF that holds no importance matrix",
            hint="give a file that llama-imatrix wrote",
        )
    return Imatrix(
        path,
        {name: _gguf_entry(store, name, path) for name in sorted(names)},
        _datasets(store.keys, path),
        _chunks(store.keys, path),
    )


def _gguf_entry(store: Store, name: str, path: Path) -> Entry:
    sums, counts = store[name + SUMS], store[name + COUNTS]
    extent = store.extent(name + SUMS)
    if sums.dtype != F32 or counts.dtype != F32 or extent is None:
        raise FormatError(f"{path}: the sums and counts of {name} must be F32")
    if counts.size == 0 or sums.size == 0 or sums.size % counts.size:
        raise FormatError(f"{path}: {sums.size} sums and {counts.size} counts of {name}")
    values = store.array(name + COUNTS).reshape(-1).astype(np.float64)
    if not np.isfinite(values).all():
        raise FormatError(f"{path}: the counts of {name} are not finite")
    rounded = np.trunc(values + np.copysign(0.5, values))  # lround: halves away from zero
    return Entry(extent, tuple(np.maximum(rounded, 0).tolist()))


def _datasets(keys: KeyValues, path: Path) -> tuple[str, ...]:
    value = _required(keys, "imatrix.datasets", path)
    if value.kind != ValueType.ARRAY or value.element != ValueType.STRING:
        return ()
    return tuple(name if isinstance(name, str) else name.decode(errors="replace") for name in value.data)


def _chunks(keys: KeyValues, path: Path) -> int:
    _required(keys, "imatrix.chunk_size", path)
    value = _required(keys, "imatrix.chunk_count", path)
    if value.kind != ValueType.UINT32:
        raise FormatError(f"{path}: imatrix.chunk_count is a {value.kind.name}, not a UINT32")
    return int(value.data)


def _required(keys: KeyValues, key: str, path: Path) -> Value:
    if key not in keys:
        raise FormatError(f"{path}: no {key}", hint="give a file that llama-imatrix wrote")
    return keys[key]


@dataclass
class _Cursor:
    """A place in the older binary format, which is read from front to back."""

    handle: FileHandle
    offset: int = 0

    @property
    def left(self) -> int:
        return self.handle.size - self.offset

    def number(self) -> int:
        return int(struct.unpack("<i", self.take(4))[0])

    def take(self, length: int) -> bytes:
        self.offset += length
        return self.handle.read(self.offset - length, length)

    def words(self, length: int) -> str:
        """A text of ``length`` bytes, up to its first zero."""
        return self.take(length).split(b"\0")[0].decode(errors="replace")


def _from_legacy(path: Path, handle: FileHandle) -> Imatrix:
    cursor = _Cursor(handle)
    count = cursor.number() if handle.size >= 4 else 0
    if not 0 < count <= handle.size // SMALLEST_ENTRY:
        raise FormatError(f"{path}: not an importance matrix", hint="give a file that llama-imatrix wrote")
    entries = dict(_legacy_entry(cursor, path) for _ in range(count))
    chunks = cursor.number() if cursor.left >= 4 else 0
    length = cursor.number() if cursor.left >= 4 else 0
    datasets = (cursor.words(length),) if 0 < length <= cursor.left else ()
    return Imatrix(path, entries, datasets, chunks)


def _legacy_entry(cursor: _Cursor, path: Path) -> tuple[str, Entry]:
    """One tensor: its sums are already means over tokens, times the number of calls."""
    length = cursor.number()
    if not 0 <= length <= cursor.left:
        raise FormatError(f"{path}: a name of {length} bytes at byte {cursor.offset}")
    name = cursor.words(length)
    calls, values = cursor.number(), cursor.number()
    if not 0 < values * 4 <= cursor.left:
        raise FormatError(f"{path}: {values} weights for {name[:80]!r}, and {max(cursor.left, 0)} bytes left")
    extent = Extent(path, cursor.offset, values * 4)
    cursor.offset += extent.length
    return name, Entry(extent, (float(max(calls, 1)),))
