"""GGUF files as a Store: typed metadata, and tensors in plain or quantised types.

Everything is checked before a tensor is read: a header that leads past the end, tensors that overlap or are cut off,
types this version does not know. Format: the GGUF specification.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from adaptool.errors import FormatError, NotFoundError, UnsupportedError
from adaptool.tensors.dtypes import Array
from adaptool.tensors.files import FileHandle, open_file
from adaptool.tensors.filestore import FileStore
from adaptool.tensors.ggml.codec import HeaderReader
from adaptool.tensors.ggml.types import GGMLType, type_of_id
from adaptool.tensors.ggml.values import KeyValues, Value, ValueType
from adaptool.tensors.pointers import refuse_pointer
from adaptool.tensors.store import Extent, TensorInfo
from adaptool.tensors.views import Joined

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT_KEY = "general.alignment"
DEFAULT_ALIGNMENT = 32
MOST_AXES = 4
MOST_KEYS, MOST_TENSORS = 1 << 16, 1 << 18
"""More than any model has; a header of nothing else would fill the memory."""
SPLIT_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


@dataclass(frozen=True, eq=False)
class GgufFile(FileStore):
    """The tensors of one ``.gguf`` file; shapes are outermost first, the reverse of how GGUF writes them."""

    path: Path
    keys: KeyValues
    tensors: Mapping[str, TensorInfo]
    offsets: Mapping[str, int]
    alignment: int = DEFAULT_ALIGNMENT

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Array | None = None) -> Array:
        info, start, stop = self.span(name, start, stop)
        if out is None:
            out = np.empty((stop - start, info.width), info.dtype.storage)
        self._file.read_into(out, self.offsets[name] + start * info.row_nbytes)
        return out

    def extent(self, name: str) -> Extent | None:
        info = self[name]
        return Extent(self.path, self.offsets[name], info.nbytes)


@dataclass(frozen=True, eq=False)
class SplitGguf(Joined):
    """A GGUF in several files; ``keys`` are the first one's."""

    keys: KeyValues = None  # type: ignore[assignment]


def open_gguf(path: Path) -> GgufFile | SplitGguf:
    """Open a GGUF by its file, or by the first file of a split one; no tensor is read.

    Raises FormatError for a broken file, UnsupportedError for a version or type this one does not know, NotFoundError
    where a part is missing.
    """
    first = open_single(path)
    count = _number(first, "split.count")
    if count is None or count <= 1:
        return first
    found = SPLIT_NAME.fullmatch(path.name)
    if not found or int(found[3]) != count:
        raise FormatError(f"{path}: one of {count} parts, by a name that does not say which")
    if int(found[2]) != 1:
        raise FormatError(f"{path}: part {int(found[2])} of a split GGUF", hint="give the first part")
    rest = [path.with_name(f"{found[1]}-{number:05d}-of-{found[3]}.gguf") for number in range(2, count + 1)]
    for part in rest:
        if not part.exists():
            raise NotFoundError(f"{path}: its part {part.name} is not there", hint="fetch all parts into one folder")
    whole = SplitGguf((first, *map(open_single, rest)), str(path), first.keys)
    total = _number(first, "split.tensors.count")
    if total is not None and total != len(whole):
        raise FormatError(f"{path}: the parts hold {len(whole)} tensors of {total}")
    return whole


def _number(file: GgufFile, name: str) -> int | None:
    value = file.keys.get(name)
    if value is not None and not isinstance(value.data, int):
        raise FormatError(f"{file}: {name} is no number")
    return None if value is None else int(value.data)


def open_single(path: Path) -> GgufFile:
    """One file, whether part of a split GGUF or whole."""
    handle = open_file(path)
    try:
        return _parsed(path, handle)
    finally:
        handle.close()


def _parsed(path: Path, handle: FileHandle) -> GgufFile:
    reader = HeaderReader(handle)
    if handle.size < 24 or reader.take(4) != MAGIC:
        refuse_pointer(handle, "the model")
        raise FormatError(f"{path}: not a GGUF file")
    version = reader.number(ValueType.UINT32)
    if version not in VERSIONS:
        swapped = struct.unpack(">I", struct.pack("<I", version))[0] in VERSIONS
        what = "a big-endian GGUF" if swapped else f"GGUF version {version}"
        raise UnsupportedError(f"{path}: {what}, which this version does not read")
    tensor_count, key_count = reader.count(MOST_TENSORS), reader.count(MOST_KEYS)
    keys = _keys(path, reader, key_count)
    alignment = keys.get(ALIGNMENT_KEY, Value(ValueType.UINT32, DEFAULT_ALIGNMENT)).data
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1) or alignment > 1 << 20:
        raise FormatError(f"{path}: {ALIGNMENT_KEY} is {alignment!r}, not a power of two")
    infos: dict[str, TensorInfo] = {}
    relative: dict[str, int] = {}
    for _ in range(tensor_count):
        info, offset = _tensor(path, reader, alignment)
        if info.name in infos:
            raise FormatError(f"{path}: the tensor {info.name!r} is there twice")
        infos[info.name], relative[info.name] = info, offset
    start = reader.offset + -reader.offset % alignment
    offsets = {name: start + offset for name, offset in relative.items()}
    _check_layout(path, infos, offsets, handle.size)
    return GgufFile(path, keys, infos, offsets, alignment)


def _keys(path: Path, reader: HeaderReader, count: int) -> dict[str, Value]:
    keys: dict[str, Value] = {}
    for _ in range(count):
        name = reader.name()
        if name in keys:
            raise FormatError(f"{path}: the key {name!r} is there twice")
        keys[name] = reader.value()
    return keys


def _tensor(path: Path, reader: HeaderReader, alignment: int) -> tuple[TensorInfo, int]:
    name = reader.name()
    axes = reader.number(ValueType.UINT32)
    if axes > MOST_AXES:
        raise FormatError(f"{path}: {name!r} claims {axes} axes, more than {MOST_AXES}")
    shape = tuple(reversed([reader.number(ValueType.UINT64) for _ in range(axes)]))
    number, offset = reader.number(ValueType.UINT32), reader.number(ValueType.UINT64)
    kind = type_of_id(number)
    if kind is None:
        raise UnsupportedError(f"{path}: {name!r} is of the type {number}, which this version does not know")
    if math.prod(shape) >= 2**63 or offset >= 2**63:
        raise FormatError(f"{path}: {name!r} claims more elements than can be addressed")
    info = TensorInfo(name, kind, shape)
    if isinstance(kind, GGMLType) and info.columns % kind.block:
        raise FormatError(f"{path}: {name!r} has {info.columns} columns, no multiple of {kind}'s block of {kind.block}")
    if offset % alignment:
        raise FormatError(f"{path}: {name!r} begins at {offset}, which is not aligned to {alignment}")
    return info, offset


def _check_layout(path: Path, infos: Mapping[str, TensorInfo], offsets: Mapping[str, int], size: int) -> None:
    ordered = sorted(infos, key=lambda name: (offsets[name], infos[name].nbytes))
    for before, after in pairwise(ordered):
        if offsets[before] + infos[before].nbytes > offsets[after]:
            raise FormatError(f"{path}: {before!r} overlaps {after!r}", hint="the file is damaged: fetch it again")
    if ordered and offsets[ordered[-1]] + infos[ordered[-1]].nbytes > size:
        cut = next(name for name in ordered if offsets[name] + infos[name].nbytes > size)
        raise FormatError(f"{path}: {cut!r} is cut off", hint="the file is truncated: fetch it again")
