"""The quantisation state bitsandbytes saves beside a 4-bit weight, read and checked.

For a weight ``X.weight`` the checkpoint holds ``X.weight`` (two values a byte), ``X.weight.absmax``,
``X.weight.quant_map``, with double quantisation ``X.weight.nested_absmax`` and ``X.weight.nested_quant_map``, and
``X.weight.quant_state.bitsandbytes__nf4`` (or ``__fp4``): JSON, as a vector of bytes.
Source: bitsandbytes 0.50.2, ``QuantState.as_dict(packed=True)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from adaptool.errors import FormatError, UnsupportedError
from adaptool.tensors.blockwise import BLOCKSIZES, CODES
from adaptool.tensors.dtypes import dtype
from adaptool.tensors.jsons import parse_json
from adaptool.tensors.store import Store, TensorInfo

MARK = ".quant_state.bitsandbytes__"
"""What lies between a weight's name and its 4-bit type in the name of its state."""

STATE_LIMIT = 1 << 16
"""Bytes of JSON a state may have; real ones have about 150."""

MAP_TOLERANCE = 1e-6
"""How far a saved map may be from ours: the maps are float32 in [-1, 1], and old versions rounded them otherwise."""


@dataclass(frozen=True, slots=True)
class Nested:
    """Double quantisation: the scales are 8-bit indices into a map, scaled in blocks, plus an offset."""

    absmax: str
    quant_map: str
    blocksize: int
    offset: float


@dataclass(frozen=True, slots=True)
class QuantState:
    """One 4-bit weight: what it was (``info``) and the names of the tensors that say how to get it back."""

    info: TensorInfo
    quant_type: str
    blocksize: int
    absmax: str
    nested: Nested | None

    @property
    def name(self) -> str:
        """The weight, under which its packed bytes are stored too."""
        return self.info.name

    @property
    def blocks(self) -> int:
        """How many scales it has."""
        return -(-self.info.size // self.blocksize)


def companions_of(states: Iterable[QuantState]) -> set[str]:
    """The tensors that only serve the quantised weights."""
    endings = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")
    return {state.name + ending for state in states for ending in (*endings, MARK + state.quant_type)}


def read_states(store: Store) -> dict[str, QuantState]:
    """Every 4-bit weight of a checkpoint; raises FormatError where a state and its tensors disagree."""
    states: dict[str, QuantState] = {}
    for key in store:
        name, mark, quant_type = key.rpartition(MARK)
        if mark:
            if name in states:
                raise FormatError(f"{store}: {name!r} has two quantisation states")
            states[name] = _read_state(store, key, name, quant_type)
    hidden = companions_of(states.values())
    for name in store:
        weight = name.removesuffix(".absmax")
        if weight != name and name not in hidden and f"{weight}.quant_map" in store:
            raise FormatError(f"{store}: {weight!r} has 4-bit scales and no quant_state saying how to read them")
    return states


def _read_state(store: Store, key: str, name: str, quant_type: str) -> QuantState:
    where = f"{store}: {key!r}"
    if quant_type not in CODES:
        raise UnsupportedError(f"{where}: 4-bit type {quant_type!r} is not one of: {', '.join(CODES)}")
    if store[key].dtype.name != "U8" or store[key].nbytes > STATE_LIMIT:
        raise FormatError(f"{where}: {store[key].dtype}, {store[key].nbytes} bytes: not JSON as a vector of bytes")
    entries = parse_json(store.read(key).tobytes(), where, what="quantisation state")
    if not isinstance(entries, dict):
        raise FormatError(f"{where}: not a JSON object")
    if entries.get("quant_type") != quant_type:
        raise FormatError(f"{where}: says quant_type {entries.get('quant_type')!r}")
    kind = entries.get("dtype")
    if kind not in ("float16", "bfloat16", "float32"):
        raise UnsupportedError(f"{where}: dtype {kind!r} is not one of: float16, bfloat16, float32")
    shape = entries.get("shape")
    if not isinstance(shape, list) or not shape or not all(type(n) is int and 0 < n < 2**48 for n in shape):
        raise FormatError(f"{where}: shape {shape!r} is not the shape of a weight")
    blocksize = entries.get("blocksize")
    if not isinstance(blocksize, int) or blocksize not in BLOCKSIZES:
        raise UnsupportedError(f"{where}: blocksize {blocksize!r} is not one bitsandbytes reads")
    info = TensorInfo(name, dtype(kind), tuple(shape))
    state = QuantState(info, quant_type, blocksize, f"{name}.absmax", _nested(store, where, name, entries))
    _check_tensors(store, state)
    return state


def _nested(store: Store, where: str, name: str, entries: Mapping[str, Any]) -> Nested | None:
    if f"{name}.nested_absmax" not in store and "nested_offset" not in entries:
        return None
    blocksize, offset = entries.get("nested_blocksize"), entries.get("nested_offset")
    if not isinstance(blocksize, int) or not 0 < blocksize < 1 << 20 or not isinstance(offset, int | float):
        raise FormatError(
            f"{where}: nested_blocksize {blocksize!r} and nested_offset {offset!r} are not usable numbers"
        )
    if entries.get("nested_dtype") != "float32":
        raise UnsupportedError(f"{where}: nested_dtype {entries.get('nested_dtype')!r} is not float32")
    return Nested(f"{name}.nested_absmax", f"{name}.nested_quant_map", blocksize, float(offset))


def _check_tensors(store: Store, state: QuantState) -> None:
    """Every tensor the state speaks of is there, with the length that the weight's shape asks for."""
    packed = _present(store, state, state.name)
    needed = (state.info.size + 1) // 2
    if packed.columns != 1 or packed.nbytes != needed or packed.dtype.bits < 8:
        raise FormatError(
            f"{store}: {state.name!r} is stored as {packed.dtype} {list(packed.shape)};"
            f" {list(state.info.shape)} in 4 bits is a column of {needed} bytes"
        )
    floats = ("F32", "BF16", "F16")
    _check_vector(store, state, state.absmax, state.blocks, ("U8",) if state.nested else floats)
    _check_vector(store, state, f"{state.name}.quant_map", 16, ("F32",))
    saved = store.array(f"{state.name}.quant_map").reshape(-1)
    if not np.allclose(saved, CODES[state.quant_type], rtol=0, atol=MAP_TOLERANCE):
        raise UnsupportedError(f"{store}: '{state.name}.quant_map' does not hold the values of {state.quant_type}")
    if state.nested is not None:
        _check_vector(store, state, state.nested.absmax, -(-state.blocks // state.nested.blocksize), ("F32",))
        _check_vector(store, state, state.nested.quant_map, 256, ("F32",))


def _check_vector(store: Store, state: QuantState, name: str, length: int, kinds: tuple[str, ...]) -> None:
    info = _present(store, state, name)
    if info.dtype.name not in kinds:
        raise FormatError(f"{store}: {name!r} is {info.dtype}, not {' or '.join(kinds)}")
    if info.shape != (length,):
        raise FormatError(
            f"{store}: {name!r} has the shape {list(info.shape)};"
            f" {list(state.info.shape)} in blocks of {state.blocksize} needs [{length}]"
        )


def _present(store: Store, state: QuantState, name: str) -> TensorInfo:
    if name not in store:
        raise FormatError(
            f"{store}: {state.name!r} is {state.quant_type} and {name!r} is missing",
            hint="the checkpoint is incomplete: fetch or save it again",
        )
    return store[name]
