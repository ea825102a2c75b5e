"""PyTorch's own files (``adapter_model.bin``, ``pytorch_model.bin``) as a Store, executing nothing and without torch.

A file of torch.save is a pickle, which says how each tensor views a storage, and the storages' bytes: members of a
stored zip archive since PyTorch 1.6, one after another behind the pickle before. Tensors
are read from those bytes in place; the pickle is interpreted by ``opcodes``, which only describes.

Sources: torch/serialization.py (both layouts), torch/_utils.py (the arguments of ``_rebuild_*``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NoReturn

import numpy as np

from adaptool.errors import FormatError, UnsupportedError
from adaptool.tensors.allowlist import TensorRef, shown
from adaptool.tensors.dtypes import Array
from adaptool.tensors.files import FileHandle, open_file
from adaptool.tensors.filestore import FileStore
from adaptool.tensors.legacy import Span, read_legacy, refuse_plain
from adaptool.tensors.opcodes import PICKLE_LIMIT, interpret
from adaptool.tensors.pointers import refuse_pointer
from adaptool.tensors.safetensors import open_sharded
from adaptool.tensors.sniff import sniff
from adaptool.tensors.store import Extent, Store, TensorInfo
from adaptool.tensors.strided import is_contiguous, reach, read_rows
from adaptool.tensors.zips import Member, check_stored, read_members

INDEX_NAME = "pytorch_model.bin.index.json"

NAME_LIMIT = 4096
"""Characters in a tensor's name."""

EXPANSION_LIMIT = 64
"""Times the file's size all tensors together may have: tied and expanded tensors share bytes, without end if let."""

EXPANSION_ALLOWANCE = 64 << 20
"""Bytes they may have in any case."""

_WRAPPERS = ("state_dict", "model")

_OTHER_KINDS = {
    "safetensors": ("is safetensors, whatever its name says", "rename it to end in .safetensors"),
    "gguf": ("is GGUF, whatever its name says", "rename it to end in .gguf"),
    "unknown": ("not a file of torch.save", "the file is truncated, damaged or something else: fetch it again"),
}


@dataclass(frozen=True, slots=True)
class Layout:
    """The byte of the file a tensor begins at, and its strides in elements where they do not lie in order."""

    offset: int
    strides: tuple[int, ...] | None


@dataclass(frozen=True, eq=False)
class PickleFile(FileStore):
    """The tensors of one file of torch.save, in the order of the dictionary saved.

    ``ignored`` names what else a training checkpoint held beside its ``state_dict`` or ``model``, and the plain values
    between the tensors; it is no part of ``metadata``, which writers copy.
    """

    path: Path
    tensors: Mapping[str, TensorInfo]
    layouts: Mapping[str, Layout]
    ignored: tuple[str, ...] = ()

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Array | None = None) -> Array:
        info, start, stop = self.span(name, start, stop)
        layout = self.layouts[name]
        if out is None:
            out = np.empty((stop - start, info.columns), info.dtype.storage)
        if layout.strides is None:
            self._file.read_into(out, layout.offset + start * info.row_nbytes)
        else:
            read_rows(self._file, layout.offset, info.shape, layout.strides, range(start, stop), out)
        return out

    def extent(self, name: str) -> Extent | None:
        info, layout = self[name], self.layouts[name]
        return Extent(self.path, layout.offset, info.nbytes) if layout.strides is None else None


def open_pickle(path: Path) -> PickleFile:
    """Read and check the pickle of a file of torch.save; no tensor is read, nothing is executed.

    The value saved may be a dictionary of tensors, or one holding such a dictionary as ``state_dict`` or ``model``.
    Raises UnsupportedError naming whatever the pickle asks for beyond tensors, FormatError for a file that lies.
    """
    kind = sniff(path)
    handle = open_file(path)
    try:
        match kind:
            case "torch-zip":
                value, storages = _read_zip(handle)
            case "torch-legacy":
                value, storages = read_legacy(handle)
            case "pickle":
                refuse_plain(handle)
            case _:
                _refuse_kind(handle, kind)
        return _checked(handle, value, storages)
    finally:
        handle.close()


def open_pickle_sharded(index_path: Path) -> Store:
    """A checkpoint in several files of torch.save by its index, ``pytorch_model.bin.index.json``.

    Raises FormatError where the index and the shards disagree.
    """
    return open_sharded(index_path, open_pickle)


def _refuse_kind(handle: FileHandle, kind: str) -> NoReturn:
    if handle.size >= 262 and handle.read(257, 5) == b"ustar":
        hint = "load it with torch.load and save it again where it was made"
        raise UnsupportedError(f"{handle.path}: a tar archive, as torch.save wrote before PyTorch 0.2", hint=hint)
    refuse_pointer(handle)
    what, hint = _OTHER_KINDS[kind]
    raise FormatError(f"{handle.path}: {what}", hint=hint)


def _read_zip(handle: FileHandle) -> tuple[object, Mapping[str, Span]]:
    """The value a zip archive of torch.save holds, and where each of its storages lies."""
    members = read_members(handle)
    root = next(iter(members), "").partition("/")[0]
    if f"{root}/constants.pkl" in members:
        raise UnsupportedError(f"{handle.path}: a TorchScript program, not a file of tensors", defect="refused")
    check_stored(handle, members)
    order = members.get(f"{root}/byteorder")
    if order is not None and _content(handle, order, limit=64) != b"little":
        raise UnsupportedError(f"{handle.path}: not written on a little-endian machine")
    program = members.get(f"{root}/data.pkl")
    if program is None:
        raise FormatError(f"{handle.path}: a zip archive without {shown(root)}/data.pkl")
    value = interpret(BytesIO(_content(handle, program, limit=PICKLE_LIMIT)), str(handle.path))
    prefix = f"{root}/data/"
    spans = {
        name.removeprefix(prefix): Span(member.offset, member.length)
        for name, member in members.items()
        if name.startswith(prefix)
    }
    return value, spans


def _content(handle: FileHandle, member: Member, limit: int) -> bytes:
    if member.length > limit:
        raise FormatError(
            f"{handle.path}: {shown(member.name)} has {member.length} bytes, more than the {limit} it may"
        )
    return handle.read(member.offset, member.length)


def _checked(handle: FileHandle, value: object, storages: Mapping[str, Span]) -> PickleFile:
    refs, ignored = _named_tensors(handle.path, value)
    tensors = {name: TensorInfo(name, ref.dtype, ref.shape) for name, ref in refs.items()}
    limit = EXPANSION_LIMIT * handle.size + EXPANSION_ALLOWANCE
    # an empty axis does not make the others harmless: a loop over rows runs through them
    claimed = sum(math.prod(max(1, n) for n in ref.shape) * ref.dtype.itemsize for ref in refs.values())
    if claimed > limit:
        raise FormatError(f"{handle.path}: {handle.size} bytes that claim to hold {claimed} bytes of tensors")
    layouts = {name: _layout(handle.path, name, ref, storages) for name, ref in refs.items()}
    return PickleFile(handle.path, tensors, layouts, ignored)


def _layout(path: Path, name: str, ref: TensorRef, storages: Mapping[str, Span]) -> Layout:
    """The tensor's place in the file, if its storage is there and it keeps within it."""
    storage = ref.storage
    span = storages.get(storage.key)
    if span is None:
        raise FormatError(f"{path}: the storage of {shown(name)!r} is not there")
    if span.length != storage.whole * storage.dtype.itemsize:
        need = storage.whole * storage.dtype.itemsize
        raise FormatError(f"{path}: the storage of {shown(name)!r} has {span.length} bytes and should have {need}")
    end = (ref.offset + reach(ref.shape, ref.strides)) * ref.dtype.itemsize
    if end > storage.nbytes:
        raise FormatError(f"{path}: {shown(name)!r} reaches byte {end} of a storage of {storage.nbytes}")
    offset = span.offset + storage.start * storage.dtype.itemsize + ref.offset * ref.dtype.itemsize
    in_order = 0 in ref.shape or is_contiguous(ref.shape, ref.strides)
    return Layout(offset, None if in_order else ref.strides)


def _named_tensors(path: Path, value: object) -> tuple[dict[str, TensorRef], tuple[str, ...]]:
    """The dictionary of tensors in what was saved, and the names of what is not a tensor."""
    wrapped, outside = _unwrapped(path, value)
    tensors = {_checked_name(path, key): item for key, item in wrapped.items() if type(item) is TensorRef}
    beside = [(shown(str(key)), item) for key, item in wrapped.items() if type(item) is not TensorRef]
    for key, item in beside:
        if not isinstance(item, int | float | str | bytes | None):
            raise UnsupportedError(f"{path}: {key!r} among the tensors is neither a tensor nor a plain value")
    return tensors, (*outside, *(key for key, _ in beside))


def _unwrapped(path: Path, value: object) -> tuple[dict[object, object], tuple[str, ...]]:
    """The dictionary that holds the tensors, and what lies beside it in a training checkpoint."""
    if not isinstance(value, dict):
        raise UnsupportedError(f"{path}: holds something else than a dictionary of tensors")
    if _has_tensors(value):
        return value, ()
    inner = [key for key in _WRAPPERS if _has_tensors(value.get(key))]
    if len(inner) > 1:
        raise UnsupportedError(f"{path}: holds two models, as {' and as '.join(inner)}")
    if not inner:
        hint = "an empty save is typical of training under ZeRO-3 without gathering the weights: save again"
        raise FormatError(f"{path}: holds no tensors by name", hint=hint, defect="no-tensors")
    return value[inner[0]], tuple(shown(str(key)) for key in value if key != inner[0])


def _has_tensors(value: object) -> bool:
    return isinstance(value, dict) and any(type(item) is TensorRef for item in value.values())


def _checked_name(path: Path, name: object) -> str:
    if type(name) is not str or len(name) > NAME_LIMIT or not name.isprintable():
        raise FormatError(f"{path}: a tensor is called {shown(str(name))!r}, which is no name")
    return name
