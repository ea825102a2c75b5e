"""Quantisers written by others: the ggml of ``libggml-python`` through ctypes, else ``libgguf``, else ``gguf``.

They are looked for when first needed, and none is required. Each is called with checked arguments only: ggml ends the
process where it doubts them.
"""

from __future__ import annotations

import ctypes
import importlib
import threading
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from adaptool.tensors.dtypes import Array, Floats
from adaptool.tensors.ggml.types import GGMLType

Quantiser = Callable[[Floats, GGMLType, Floats | None, Array], None]
"""Fills blocks, shape (rows, row_nbytes), from float32 rows and the columns' importance or None."""

Dequantiser = Callable[[Array, GGMLType, Floats], None]
"""Fills float32 rows from C-contiguous blocks."""

IMPORTANCE_REQUIRED = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS"})
"""Types too narrow to mean anything without an imatrix: ggml refuses them, or should (IQ1_M)."""

GRIDS = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"})
"""Types whose groups of elements name points of a grid: ggml ends the process where its search among them overflows."""

GRID_LIMIT, IMPORTANCE_LIMIT = 1e7, 1e10
"""What it is safe to search with: larger elements would not fit the blocks' f16 scales either."""

_ACTIVATIONS = frozenset({"Q8_1", "Q8_K"})  # what ggml quantises activations to while computing, never files
_IN_NUMPY = frozenset({"Q8_0", "TQ1_0", "TQ2_0"})  # the others differ from ggml, if only in the sign of a zero


def libggml(kind: GGMLType, weighted: bool) -> Quantiser | None:
    """ggml itself, prebuilt by the package ``libggml-python``."""
    return _chunk if kind.name not in _ACTIVATIONS and _ggml() is not None else None


def libgguf(kind: GGMLType, weighted: bool) -> Quantiser | None:
    """ggml's reference quantisers, prebuilt by the package ``libgguf``."""
    return _rows if kind.name not in _ACTIVATIONS and find_spec("libgguf") is not None else None


def gguf(kind: GGMLType, weighted: bool) -> Quantiser | None:
    """The NumPy quantisers of the package ``gguf``: few types, to none of which importance matters, and slower."""
    return _numpy if kind.name in _IN_NUMPY and find_spec("gguf") is not None else None


def libggml_back(kind: GGMLType) -> Dequantiser | None:
    """ggml's own ``to_float``."""
    return _row_back if _row_function(kind) is not None else None


def libgguf_back(kind: GGMLType) -> Dequantiser | None:
    """ggml's, by the package ``libgguf``."""
    return _rows_back if kind.name not in _ACTIVATIONS and find_spec("libgguf") is not None else None


def gguf_back(kind: GGMLType) -> Dequantiser | None:
    """In NumPy, by the package ``gguf``; the same values as ggml's."""
    return _numpy_back if kind.name not in _ACTIVATIONS and find_spec("gguf") is not None else None


@cache
def _ggml() -> ctypes.CDLL | None:
    spec = find_spec("libggml")
    folders = [] if spec is None else spec.submodule_search_locations or []
    for folder in folders:
        for name in ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll"):
            for path in sorted(Path(folder).glob(f"*/{name}")):
                try:
                    return _initialised(ctypes.CDLL(str(path)))
                except (OSError, AttributeError):
                    continue
    return None


def _initialised(loaded: ctypes.CDLL) -> ctypes.CDLL:
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    loaded.ggml_quantize_init.argtypes, loaded.ggml_quantize_init.restype = (ctypes.c_int,), None
    chunk = loaded.ggml_quantize_chunk  # type, source, destination, first element, rows, columns, importance
    chunk.argtypes, chunk.restype = (ctypes.c_int, pointer, pointer, number, number, number, pointer), ctypes.c_size_t
    return loaded


_GRIDS = threading.Lock()


@cache
def _prepare(number: int) -> None:
    """The search grid of a type, before rows need it: some take many seconds, most types have none."""
    loaded = _ggml()
    assert loaded is not None
    with _GRIDS:
        loaded.ggml_quantize_init(number)


def _chunk(values: Floats, kind: GGMLType, importance: Floats | None, out: Array) -> None:
    loaded = _ggml()
    assert loaded is not None
    _prepare(kind.id)
    weights = None if importance is None else importance.ctypes.data
    loaded.ggml_quantize_chunk(kind.id, values.ctypes.data, out.ctypes.data, 0, *values.shape, weights)


def _rows(values: Floats, kind: GGMLType, importance: Floats | None, out: Array) -> None:
    importlib.import_module("libgguf").quantize_rows_into_raw(kind.id, values, out, *values.shape, importance)


def _numpy(values: Floats, kind: GGMLType, importance: Floats | None, out: Array) -> None:
    quants = importlib.import_module("gguf.quants")
    number = importlib.import_module("gguf.constants").GGMLQuantizationType(kind.id)
    np.copyto(out, quants.quantize(values, number))


@cache
def _row_function(kind: GGMLType) -> Callable[[int, int, int], None] | None:
    name = "dequantize_row_" + kind.name.lower().replace("_k", "_K")
    function = getattr(_ggml(), name, None)
    if function is not None:
        function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64), None
    return function


def _row_back(raw: Array, kind: GGMLType, out: Floats) -> None:
    function = _row_function(kind)
    assert function is not None
    function(raw.ctypes.data, out.ctypes.data, out.size)


def _rows_back(raw: Array, kind: GGMLType, out: Floats) -> None:
    importlib.import_module("libgguf").dequantize_rows_into_raw(kind.id, raw, out, *out.shape)


def _numpy_back(raw: Array, kind: GGMLType, out: Floats) -> None:
    quants = importlib.import_module("gguf.quants")
    number = importlib.import_module("gguf.constants").GGMLQuantizationType(kind.id)
    with np.errstate(invalid="ignore", over="ignore"):
        np.copyto(out, quants.dequantize(raw, number))
