"""The compiled kernels, where the build made them; None where it could not."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

_POINTER, _LENGTH = ctypes.c_void_p, ctypes.c_ssize_t


@cache
def library() -> ctypes.CDLL | None:
    """The kernel library with its signatures declared, or None: then NumPy does the same arithmetic."""
    path = Path(__file__).with_name("_kernels.so")
    try:
        loaded = ctypes.CDLL(str(path))
        for kind in ("bf16", "f16"):
            for name in ("add_once", "add_safe"):
                _declare(loaded, f"{name}_{kind}", _POINTER, _POINTER, ctypes.c_float, _LENGTH)
            for name in ("widen", "narrow"):
                _declare(loaded, f"{name}_{kind}", _POINTER, _POINTER, _LENGTH)
        _declare(loaded, "row_squares_f32", _POINTER, _POINTER, _LENGTH, _LENGTH)
        _declare(loaded, "add_once_f32", _POINTER, _POINTER, ctypes.c_float, _LENGTH)
    except (OSError, AttributeError):  # not built, built for another machine, or left by an older version
        return None
    return loaded


def _declare(loaded: ctypes.CDLL, name: str, *types: type) -> None:
    function = getattr(loaded, name)
    function.argtypes, function.restype = types, None
