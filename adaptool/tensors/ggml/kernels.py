"""The compiled quantisers, where the build made them; None where it could not."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

from adaptool.tensors.ggml.types import GGML_TYPES

_POINTER, _LENGTH = ctypes.c_void_p, ctypes.c_ssize_t


@cache
def library() -> ctypes.CDLL | None:
    """The quantiser library with its signatures declared, or None: then a prebuilt ggml makes the same bytes."""
    path = Path(__file__).with_name("_quants.so")
    try:
        loaded = ctypes.CDLL(str(path))
        loaded.all_finite.argtypes, loaded.all_finite.restype = (_POINTER, _LENGTH), ctypes.c_int
    except (OSError, AttributeError):  # not built, built for another machine, or left by an older version
        return None
    for kind in GGML_TYPES:
        # rows of float32, the columns' importance or NULL, blocks out, rows, columns
        _declare(loaded, f"quantize_{kind.lower()}", _POINTER, _POINTER, _POINTER, _LENGTH, _LENGTH)
        # blocks, rows of float32 out, how many elements
        _declare(loaded, f"dequantize_{kind.lower()}", _POINTER, _POINTER, _LENGTH)
    return loaded


def kernel(name: str) -> Any | None:
    """The compiled function called ``name``, or None where there is none."""
    return getattr(library(), name, None)


def _declare(loaded: ctypes.CDLL, name: str, *types: type) -> None:
    function = getattr(loaded, name, None)  # only the types worth it have kernels
    if function is not None:
        function.argtypes, function.restype = types, None
