"""safetensors: one file, or a sharded folder with an index, as a Store.

The header is read and checked whole before a tensor is; bytes come through ``pread`` into buffers
the caller reuses, never through ``mmap`` (whose pages count as this process's memory).

Format: https://huggingface.co/docs/safetensors: u64 header length, JSON header, then the bytes of all
tensors, without holes or overlaps.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from adaptool.errors import FormatError, NotFoundError
from adaptool.tensors.dtypes import DTYPES, Array
from adaptool.tensors.files import FileHandle, open_file
from adaptool.tensors.filestore import FileStore
from adaptool.tensors.jsons import parse_json
from adaptool.tensors.pointers import LARGEST, refuse_pointer
from adaptool.tensors.store import Extent, Store, TensorInfo
from adaptool.tensors.views import Joined, Selected

HEADER_LIMIT = 100_000_000
"""Bytes: the cap of the reference implementation."""

FIELDS = {"dtype", "shape", "data_offsets"}
EMPTY_LIMIT = 2**59
"""The product of the axes that are not 0, of a tensor without elements: NumPy makes none beyond 2⁶³ bytes."""

SPARSEST = 8
"""Bytes read for one that is asked for: beyond that, tensors are read one by one."""

AXES_LIMIT = 64
"""NumPy's own limit."""

INDEX_NAME = "model.safetensors.index.json"


class GapError(FormatError):
    """Bytes that belong to no tensor: ``unused`` is where in the file they lie, so that they can be looked at."""

    def __init__(self, message: str, unused: range, defect: str) -> None:
        super().__init__(message, defect=defect)
        self.unused = unused

    def __reduce__(self) -> tuple[object, ...]:
        return GapError, (self.message, self.unused, self.defect)


@dataclass(frozen=True, eq=False)
class SafetensorsFile(FileStore):
    """The tensors of one ``.safetensors`` file."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    offsets: Mapping[str, int]
    meta: Mapping[str, str]

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.meta

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Array | None = None) -> Array:
        info, start, stop = self.span(name, start, stop)
        if info.dtype.bits < 8:
            return self._read_packed(info, start, stop, out)
        if out is None:
            out = np.empty((stop - start, info.columns), info.dtype.storage)
        self._file.read_into(out, self.offsets[name] + start * info.row_nbytes)
        return out

    def _read_packed(self, info: TensorInfo, start: int, stop: int, out: Array | None) -> Array:
        """Rows of a type narrower than a byte, as bytes: only where a row ends on one."""
        if info.columns * info.dtype.bits % 8:
            raise FormatError(f"{self.path}: rows of {info.name!r} ({info.dtype}) do not end on a byte")
        if out is None:
            out = np.empty((stop - start, info.row_nbytes), np.uint8)
        self._file.read_into(out, self.offsets[info.name] + start * info.row_nbytes)
        return out

    def gather(self, names: Sequence[str], out: Array) -> None:
        """One read where the tensors lie close together, as those of one layer do."""
        starts = np.array([self.offsets[name] for name in names])
        first, length = int(starts.min()), int(starts.max()) - int(starts.min()) + out.shape[1]
        if length > SPARSEST * out.nbytes:
            super().gather(names, out)
            return
        region = np.empty(length, np.uint8)
        self._file.read_into(region, first)
        out[...] = np.lib.stride_tricks.sliding_window_view(region, out.shape[1])[starts - first]

    def extent(self, name: str) -> Extent | None:
        info = self[name]
        return Extent(self.path, self.offsets[name], info.nbytes)


def open_safetensors(path: Path) -> SafetensorsFile:
    """Read and check the header of a ``.safetensors`` file; no tensor is read.

    Raises FormatError for every layout the format forbids: a header past the end or the cap,
    duplicate keys, unknown types, shape and byte range that disagree, holes, overlaps, trailing bytes.
    """
    handle = open_file(path)
    try:
        header = _read_header(path, handle)
        return _checked(path, header, handle.size)
    finally:
        handle.close()


def _read_header(path: Path, handle: FileHandle) -> tuple[int, bytes]:
    prefix = handle.read(0, min(8, handle.size))
    if handle.size < LARGEST:
        refuse_pointer(handle)
    if len(prefix) < 8:
        raise FormatError(
            f"{path}: {handle.size} bytes, too short to be safetensors",
            hint="an empty save is typical of training under ZeRO-3 without gathering the weights: save again",
            defect="too-short",
        )
    (length,) = struct.unpack("<Q", prefix)
    if length > HEADER_LIMIT or length + 8 > handle.size:
        if prefix.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
            hint = "rename it to end in .bin"
            raise FormatError(f"{path}: a PyTorch pickle, whatever its name says", hint=hint, defect="pickle")
        raise FormatError(
            f"{path}: the header claims {length} bytes and the file has {handle.size}",
            hint="the file is truncated or is not safetensors: fetch it again",
            defect="header-limit" if length + 8 <= handle.size else "header-length",
        )
    return length, handle.read(8, length)


def _checked(path: Path, header: tuple[int, bytes], file_size: int) -> SafetensorsFile:
    length, text = header
    if not text.startswith(b"{"):
        raise FormatError(f"{path}: the header is not a JSON object", defect="not-an-object")
    entries = parse_json(text, str(path), what="safetensors header")
    if not isinstance(entries, dict):
        raise FormatError(f"{path}: the header is not a JSON object", defect="not-an-object")
    metadata = entries.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FormatError(f"{path}: __metadata__ must map strings to strings", defect="metadata")
    ranges = {name: _entry(path, name, entry) for name, entry in entries.items()}
    ordered = sorted(ranges.items(), key=lambda item: item[1][1:])
    _check_tiling(path, [(name, start, stop) for name, (_, start, stop) in ordered], 8 + length, file_size)
    return SafetensorsFile(
        path,
        {name: info for name, (info, _, _) in ordered},
        {name: 8 + length + start for name, (_, start, _) in ordered},
        metadata,
    )


def _entry(path: Path, name: str, entry: object) -> tuple[TensorInfo, int, int]:
    if not isinstance(entry, dict) or entry.keys() != FIELDS:
        raise FormatError(f"{path}: the entry of {name!r} must hold dtype, shape and data_offsets", defect="entry")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in DTYPES:
        raise FormatError(f"{path}: {name!r} has the unknown type {kind!r}", defect="unknown-type")
    if not _naturals(shape, AXES_LIMIT) or not _naturals(offsets, 2) or len(offsets) != 2:
        defect = "overflow" if _overflows(shape) or _overflows(offsets) else "impossible-numbers"
        raise FormatError(f"{path}: {name!r} has an impossible shape or impossible offsets", defect=defect)
    size = math.prod(shape)
    if size >= 2**63 or (size == 0 and math.prod(max(axis, 1) for axis in shape) >= EMPTY_LIMIT):
        raise FormatError(f"{path}: {name!r} claims more elements than can be addressed", defect="overflow")
    info = TensorInfo(name, DTYPES[kind], tuple(shape))
    start, stop = offsets
    nbytes, rest = divmod(size * info.dtype.bits, 8)
    if rest or stop - start != nbytes:
        raise FormatError(
            f"{path}: {name!r} is {info.dtype} {list(shape)} = {info.nbytes} bytes, its range {stop - start}",
            defect="range",
        )
    return info, start, stop


def _naturals(values: object, most: int) -> bool:
    if not isinstance(values, list) or len(values) > most:
        return False
    for value in values:  # noqa: SIM110  (a hundred thousand generators cost half a second)
        if type(value) is not int or not 0 <= value < 2**63:
            return False
    return True


def _overflows(values: object) -> bool:
    return isinstance(values, list) and any(type(v) is int and v >= 2**63 for v in values)


def _check_tiling(path: Path, ranges: list[tuple[str, int, int]], data_start: int, file_size: int) -> None:
    """Tensors must cover the data exactly: a hole or an overlap is where something else hides."""
    data_size = file_size - data_start
    edges = [("the header", 0, 0), *ranges, ("the end of the file", data_size, data_size)]
    for (before, _, stop), (name, start, _) in pairwise(edges):
        if start > stop:
            where = "trailing" if name == "the end of the file" else "unused"
            message = f"{path}: {start - stop} {where} bytes between {before!r} and {name!r}"
            defect = "trailing" if where == "trailing" else "hole"
            raise GapError(message, range(data_start + stop, data_start + start), defect)
        if start < stop:
            detail = "is cut off" if name == "the end of the file" else f"overlaps {name!r}"
            raise FormatError(
                f"{path}: {before!r} {detail}",
                hint="the file is truncated or damaged: fetch it again",
                defect="truncated" if name == "the end of the file" else "overlap",
            )


def open_sharded(index_path: Path, open_shard: Callable[[Path], Store] | None = None) -> Store:
    """A sharded checkpoint by its index: every listed tensor, in the index's order of files.

    ``open_shard`` opens one file; safetensors unless said otherwise.

    Raises FormatError where the index and the shards disagree.
    """
    index = parse_json(open_file(index_path).read_all(HEADER_LIMIT), str(index_path), what="index")
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise FormatError(f"{index_path}: no weight_map from tensor to file")
    shards: dict[str, Store] = {}
    for file_name in sorted(set(weight_map.values())):
        if Path(file_name).name != file_name or file_name in (".", "..") or "\0" in file_name:
            raise FormatError(f"{index_path}: the shard {file_name!r} is not a file beside it")
        try:
            shards[file_name] = (open_shard or open_safetensors)(index_path.parent / file_name)
        except NotFoundError as error:
            raise NotFoundError(f"{index_path} names {file_name}, which is not there", hint="download it") from error
    _check_index(index_path, weight_map, shards)
    chosen = [
        Selected(shard, {name: name for name in shard if weight_map.get(name) == file_name})
        for file_name, shard in shards.items()
    ]
    return Joined(tuple(chosen), str(index_path.parent))


def _check_index(index_path: Path, weight_map: Mapping[str, str], shards: Mapping[str, Store]) -> None:
    for name, file_name in weight_map.items():
        if name not in shards[file_name]:
            raise FormatError(f"{index_path}: {name!r} should be in {file_name} and is not")
    for file_name, shard in shards.items():
        for name in shard:
            if weight_map.get(name) != file_name:
                listed = f"lists in {weight_map[name]}" if name in weight_map else "does not list"
                raise FormatError(f"{index_path}: {file_name} holds {name!r}, which the index {listed}")


def shard_of(store: Store, name: str) -> str | None:
    """The file a tensor lies in, by its base name: what the default sharding of an output keeps."""
    extent = store.extent(name)
    return extent.path.name if extent else None
