"""Quantising rows to GGML blocks: by our kernels where they were built, else by a prebuilt ggml.

Whichever runs, the bytes are llama-quantize's.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np

from adaptool.errors import FormatError, MismatchError, UnsupportedError
from adaptool.tensors.dtypes import Array, Floats
from adaptool.tensors.ggml import prebuilt
from adaptool.tensors.ggml.kernels import kernel, library
from adaptool.tensors.ggml.prebuilt import GRID_LIMIT, GRIDS, IMPORTANCE_LIMIT, IMPORTANCE_REQUIRED, Quantiser
from adaptool.tensors.ggml.types import GGMLType


class Backend(StrEnum):
    """Who quantises, the fastest first."""

    KERNELS = "kernels"
    LIBGGML = "libggml"
    LIBGGUF = "libgguf"
    GGUF = "gguf"


def quantize(
    values: Floats,
    kind: GGMLType,
    importance: Floats | None = None,
    out: Array | None = None,
    *,
    backend: Backend | None = None,
) -> Array:
    """Rows of float32, shape (rows, columns), as blocks: uint8 of shape (rows, ``kind.row_nbytes(columns)``).

    ``importance`` weighs the columns (an imatrix row, shape (columns,)). ``columns`` is a multiple of ``kind.block``.
    Safe to call from several threads. ``backend`` names who must do it, for tests.

    A row that holds NaN or Inf is a FormatError: ggml would write blocks of nonsense for it.
    """
    run = _quantiser(kind, importance is not None, backend)
    rows, columns = _checked(values, kind)
    if importance is not None:
        importance = _checked_importance(importance, columns)
    elif kind.name in IMPORTANCE_REQUIRED:
        raise UnsupportedError(
            f"{kind} cannot be quantised without an importance matrix", hint="give one, or use a wider type"
        )
    if not all_finite(values):
        raise FormatError("holds NaN or Inf, which no quantised type can store")
    if kind.name in GRIDS:
        _check_limits(values, kind, importance)
    shape = (rows, kind.row_nbytes(columns))
    out = _output(out, shape)
    if out.size:
        run(values, kind, importance, out)
    return out


def backends(kind: GGMLType, *, weighted: bool = False) -> tuple[Backend, ...]:
    """Those here that can quantise to ``kind`` (``weighted``: with importance), the preferred one first."""
    return tuple(backend for backend, find in _FINDERS.items() if find(kind, weighted) is not None)


def all_finite(values: Floats) -> bool:
    """Whether C-contiguous float32 values hold neither NaN nor Inf."""
    loaded = library()
    if loaded is not None:
        return bool(loaded.all_finite(values.ctypes.data, values.size))
    return not values.size or bool(np.isfinite(values.max()) and np.isfinite(values.min()))


def _kernels(kind: GGMLType, weighted: bool) -> Quantiser | None:
    compiled = kernel(f"quantize_{kind.name.lower()}")
    if compiled is None:
        return None

    def run(values: Floats, kind: GGMLType, importance: Floats | None, out: Array) -> None:
        weights = None if importance is None else importance.ctypes.data
        compiled(values.ctypes.data, weights, out.ctypes.data, *values.shape)

    return run


_FINDERS = {
    Backend.KERNELS: _kernels,
    Backend.LIBGGML: prebuilt.libggml,
    Backend.LIBGGUF: prebuilt.libgguf,
    Backend.GGUF: prebuilt.gguf,
}


def _quantiser(kind: GGMLType, weighted: bool, backend: Backend | None) -> Quantiser:
    for name in Backend if backend is None else (backend,):
        found = _FINDERS[name](kind, weighted)
        if found is not None:
            return found
    what = f"quantising to {kind}" + (" with an importance matrix" if weighted else "")
    by = "" if backend is None else f" by {backend}"
    raise UnsupportedError(
        f"nothing installed here is capable of {what}{by}", hint="pip install 'adaptool[ggml]' brings a prebuilt ggml"
    )


def _checked(values: Floats, kind: GGMLType) -> tuple[int, int]:
    if values.ndim != 2 or values.dtype != np.float32 or not values.flags.c_contiguous:
        raise MismatchError(
            f"quantising takes C-contiguous float32 rows, not {values.dtype} of shape {values.shape}",
            hint="np.ascontiguousarray(values, dtype=np.float32)",
        )
    rows, columns = values.shape
    if columns % kind.block:
        raise MismatchError(f"{kind} stores blocks of {kind.block} elements, which do not divide rows of {columns}")
    return rows, columns


def _checked_importance(importance: Floats, columns: int) -> Floats:
    if importance.shape != (columns,):
        raise MismatchError(f"importance of shape {importance.shape} for rows of {columns} columns")
    importance = np.ascontiguousarray(importance, dtype=np.float32)
    if not all_finite(importance):
        raise FormatError("the importance matrix holds NaN or Inf")
    return importance


def _check_limits(values: Floats, kind: GGMLType, importance: Floats | None) -> None:
    hint = "choose a type of 4 bits or more"
    if values.size and np.abs(values).max() > GRID_LIMIT:
        raise FormatError(f"holds elements past {GRID_LIMIT:.0e}, too large for {kind}", hint=hint)
    if importance is not None and importance.size and np.abs(importance).max() > IMPORTANCE_LIMIT:
        raise FormatError(
            f"the importance matrix holds weights past {IMPORTANCE_LIMIT:.0e}, too large for {kind}", hint=hint
        )


def _output(out: Array | None, shape: tuple[int, int]) -> Array:
    if out is None:
        return np.empty(shape, np.uint8)
    if out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise MismatchError(f"blocks go to C-contiguous uint8 of shape {shape}, not {out.dtype} of {out.shape}")
    return out
