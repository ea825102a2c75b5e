"""bitsandbytes 4-bit weights: a quantised checkpoint read as 16-bit tensors, and a 16-bit one as training saw it.

QLoRA adapters are trained on weights that went through NF4 and back. ``Bnb4bit`` reads a checkpoint saved in that
form; ``NF4RoundTrip`` gives a 16-bit checkpoint the same values. Both equal bitsandbytes 0.50.2 on the CPU bit for
bit, except where its answer depends on the machine:

- With AVX-512 its kernel takes a wrong scale where the columns are a multiple of 16 and not of the blocksize (its GPU
  code does not). Here every element gets the scale of its own block.
- With AVX512-BF16, bfloat16 results below 2**-126 become 0; here they are rounded. FP4's second zero is +0 here.
- Under double quantisation of more than 32768 blocks, the mean it subtracts depends on the number of threads in its
  last bit; here it is that of one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from adaptool.errors import UnsupportedError
from adaptool.tensors import blockwise
from adaptool.tensors.blockwise import BLOCKSIZES, CODES, NESTED_BLOCKSIZE, F32Array
from adaptool.tensors.bnb_state import QuantState, companions_of, read_states
from adaptool.tensors.dtypes import Array, DType, narrow, widen
from adaptool.tensors.files import FileHandle, open_file
from adaptool.tensors.memo import Memo
from adaptool.tensors.store import Extent, Store, TensorInfo
from adaptool.tensors.views import View

PIECE = 1 << 17
"""Elements computed at a time: a multiple of every blocksize, small enough for the processor's cache."""

SCAN = 1 << 20
"""Elements read at a time when a whole tensor's scales are needed first."""


@dataclass(frozen=True, eq=False)
class Bnb4bit(View):
    """A checkpoint saved by transformers in bitsandbytes 4-bit, with each weight as it was before: name, shape, type.

    The tensors that hold scales are hidden; tensors that are not quantised pass through. The first use of ``infos``
    reads and checks every quantisation state (a few hundred bytes each) and raises FormatError or UnsupportedError.
    """

    source: Store

    @cached_property
    def states(self) -> Mapping[str, QuantState]:
        """The quantised tensors, by name."""
        return read_states(self.source)

    @cached_property
    def infos(self) -> Mapping[str, TensorInfo]:
        hidden = companions_of(self.states.values())
        return {
            name: self.states[name].info if name in self.states else info
            for name, info in self.source.infos.items()
            if name not in hidden
        }

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Array | None = None) -> Array:
        info, start, stop = self.span(name, start, stop)
        if name not in self.states:
            return self.source.read(name, start, stop, out)
        state = self.states[name]
        blocks = _blocks(start * info.columns, stop * info.columns, state.blocksize)
        first, last = blocks.start * state.blocksize, min(blocks.stop * state.blocksize, info.size)
        packed, scales = self._packed(state, first // 2, (last + 1) // 2), self._scales(state, blocks)

        def values(low: int, high: int) -> F32Array:
            piece = packed[(low - first) // 2 : (high - first + 1) // 2]
            own = scales[(low - first) // state.blocksize :]
            return blockwise.dequantize(piece, own, state.quant_type, state.blocksize)

        return _rows(info, start, stop, out, first, last, values)

    @property
    def transforms(self) -> bool:
        return True

    def extent(self, name: str) -> Extent | None:
        return None if self[name].name in self.states else self.source.extent(name)

    def spans(self, name: str, nbytes: int) -> Iterator[tuple[int, int]]:
        # the source's cuts would be rows of packed bytes
        return Store.spans(self, name, nbytes) if name in self.states else self.source.spans(name, nbytes)

    def _packed(self, state: QuantState, start: int, stop: int) -> blockwise.Bytes:
        """Packed bytes ``start:stop``; they may be stored as a wider type (bnb_4bit_quant_storage, for FSDP)."""
        width = self.source[state.name].dtype.itemsize
        items = _elements(self.source, state.name, start // width, -(-stop // width))
        return blockwise.as_bytes(items)[start % width :][: stop - start]

    def _scales(self, state: QuantState, blocks: range) -> F32Array:
        raw = self._part(state.absmax, blocks.start, blocks.stop)
        if state.nested is None:
            return _f32(raw, self.source[state.absmax].dtype)
        nested, size = state.nested, state.nested.blocksize
        absmax = self._part(nested.absmax, blocks.start // size, -(-blocks.stop // size))
        code = self.source.array(nested.quant_map).astype(np.float32, copy=False)
        scales = blockwise.dequantize_8bit(
            blockwise.as_bytes(raw), absmax.view(np.float32), code, size, blocks.start % size
        )
        scales += np.float32(nested.offset)
        return scales

    def _part(self, name: str, start: int, stop: int) -> Array:
        """Elements of a vector, which is a single row: straight from its file where it lies in one."""
        extent = self.source.extent(name)
        if extent is None:
            return _elements(self.source, name, start, stop)
        kind = self.source[name].dtype
        part: Array = np.empty(stop - start, kind.storage)
        self._file(extent.path).read_into(part, extent.offset + start * kind.itemsize)
        return part

    @cached_property
    def _files(self) -> dict[Path, FileHandle]:
        return {}

    def _file(self, path: Path) -> FileHandle:
        return self._files.get(path) or self._files.setdefault(path, open_file(path))

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_files"}


@dataclass(frozen=True, eq=False)
class NF4RoundTrip(View):
    """``source`` with the tensors in ``names`` quantised to 4 bits and back, as loading with load_in_4bit leaves them.

    Shapes and types stay. Under ``double_quant`` the scales themselves go through 8 bits, which depends on the mean
    of all of a tensor's scales: the first read of a tensor scans it once, and its 8-bit scales are kept (1/64 byte an
    element, for the last few tensors).

    transformers quantises the ``nn.Linear`` weights except the output embedding and ``llm_int8_skip_modules``.
    """

    source: Store
    names: Collection[str]
    quant_type: str = "nf4"
    blocksize: int = 64
    double_quant: bool = False
    memo: Memo[tuple[blockwise.Bytes, F32Array, np.float32]] = field(default_factory=Memo, repr=False)

    def __post_init__(self) -> None:
        if self.quant_type not in CODES or self.blocksize not in BLOCKSIZES:
            raise UnsupportedError(f"no 4-bit type {self.quant_type!r} in blocks of {self.blocksize}")
        for name in self.names:
            if self.source[name].dtype.name not in ("BF16", "F16", "F32"):
                raise UnsupportedError(f"{name!r} is {self.source[name].dtype}, which bitsandbytes does not quantise")

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Array | None = None) -> Array:
        info, start, stop = self.span(name, start, stop)
        if name not in self.names or start == stop:
            return self.source.read(name, start, stop, out)
        blocks = _blocks(start * info.columns, stop * info.columns, self.blocksize)
        first, last = blocks.start * self.blocksize, min(blocks.stop * self.blocksize, info.size)
        raw = _elements(self.source, name, first, last)
        scales = self._scales(info, blocks) if self.double_quant else None

        def values(low: int, high: int) -> F32Array:
            piece = _f32(raw[low - first : high - first], info.dtype)
            absmax = blockwise.block_absmax(piece, self.blocksize)
            own = absmax if scales is None else scales[(low - first) // self.blocksize :]
            return blockwise.round_trip(piece, absmax, own, self.quant_type, self.blocksize)

        return _rows(info, start, stop, out, first, last, values)

    @property
    def transforms(self) -> bool:
        return True

    def extent(self, name: str) -> Extent | None:
        return None if name in self.names else self.source.extent(name)

    def _scales(self, info: TensorInfo, blocks: range) -> F32Array:
        indices, absmax, offset = self.memo.get(info.name, lambda: self._nested(info))
        part, first = indices[blocks.start : blocks.stop], blocks.start % NESTED_BLOCKSIZE
        own = absmax[blocks.start // NESTED_BLOCKSIZE :]
        scales = blockwise.dequantize_8bit(part, own, blockwise.dynamic_map(), NESTED_BLOCKSIZE, first)
        scales += offset
        return scales

    def _nested(self, info: TensorInfo) -> tuple[blockwise.Bytes, F32Array, np.float32]:
        step = max(SCAN, 4 * info.columns) // self.blocksize * self.blocksize
        scans = [
            blockwise.block_absmax(
                _f32(_elements(self.source, info.name, low, min(low + step, info.size)), info.dtype), self.blocksize
            )
            for low in range(0, info.size, step)
        ]
        absmax = np.concatenate(scans)
        offset = blockwise.float32_mean(absmax)
        with np.errstate(invalid="ignore"):
            absmax -= offset
        return *blockwise.quantize_8bit(absmax), offset


def _blocks(first: int, last: int, blocksize: int) -> range:
    """The blocks that elements ``first:last`` lie in."""
    return range(first // blocksize, -(-last // blocksize))


def _elements(store: Store, name: str, first: int, last: int) -> Array:
    """Elements ``first:last`` of a tensor in storage order, through the rows they lie in."""
    columns = max(1, store[name].columns)
    top = first // columns
    rows = store.read(name, top, -(-last // columns)).reshape(-1)
    return rows[first - top * columns : last - top * columns]


def _rows(
    info: TensorInfo,
    start: int,
    stop: int,
    out: Array | None,
    first: int,
    last: int,
    values: Callable[[int, int], F32Array],
) -> Array:
    """Rows ``start:stop`` from ``values(low, high)``, asked for in pieces of whole blocks of ``first:last``."""
    if out is None:
        out = np.empty((stop - start, info.columns), info.dtype.storage)
    flat, begin, end = out.reshape(-1), start * info.columns, stop * info.columns
    for low in range(first, last, PIECE):
        high = min(low + PIECE, last)
        inside = slice(max(low, begin), min(high, end))
        piece = values(low, high)[inside.start - low : inside.stop - low]
        flat[inside.start - begin : inside.stop - begin] = narrow(piece, info.dtype)
    return out


def _f32(raw: Array, kind: DType) -> F32Array:
    return widen(raw, kind).astype(np.float32, copy=False)
