"""GGML blocks back to float32: ggml's own values, bit for bit, whoever computes them."""

from __future__ import annotations

import numpy as np

from adaptool.errors import MismatchError, UnsupportedError
from adaptool.tensors.dtypes import Array, DType, Floats, widen
from adaptool.tensors.ggml import prebuilt
from adaptool.tensors.ggml.kernels import kernel
from adaptool.tensors.ggml.prebuilt import Dequantiser
from adaptool.tensors.ggml.quantize import Backend
from adaptool.tensors.ggml.types import GGMLType

_ACTIVATIONS = {"Q8_1": ("<f2", 4), "Q8_K": ("<f4", 4)}
"""Types of activations, which no other package reads: the scale's type, and where the int8 values begin."""


def dequantize(
    raw: Array, kind: DType, columns: int, out: Floats | None = None, *, backend: Backend | None = None
) -> Floats:
    """Stored rows as float32, shape (rows, columns): rows of blocks are uint8 of shape (rows, row_nbytes).

    Plain float types are widened. With ``out`` (C-contiguous, of that shape) the values are written into it.
    Safe to call from several threads. ``backend`` names who must do it, for tests.
    """
    shape = (len(raw), columns)
    if out is None:
        out = np.empty(shape, np.float32)
    elif out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise MismatchError(f"values go to C-contiguous float32 of shape {shape}, not {out.dtype} of {out.shape}")
    if not isinstance(kind, GGMLType):
        np.copyto(out, widen(raw, kind), casting="same_kind")
        return out
    if columns % kind.block or raw.shape != (len(raw), kind.row_nbytes(columns)) or raw.dtype != np.uint8:
        raise MismatchError(f"{raw.dtype} of shape {raw.shape} is not rows of {columns} elements of {kind}")
    run = _dequantiser(kind, backend)
    if out.size:
        run(np.ascontiguousarray(raw), kind, out)
    return out


def dequantizers(kind: GGMLType) -> tuple[Backend, ...]:
    """Those here that can read ``kind``, the preferred one first."""
    return tuple(backend for backend, find in _FINDERS.items() if find(kind) is not None)


def _kernels(kind: GGMLType) -> Dequantiser | None:
    if kind.name in _ACTIVATIONS:
        return _activations
    compiled = kernel(f"dequantize_{kind.name.lower()}")
    if compiled is None:
        return None
    return lambda raw, kind, out: compiled(raw.ctypes.data, out.ctypes.data, out.size)


def _activations(raw: Array, kind: GGMLType, out: Floats) -> None:
    scale_type, start = _ACTIVATIONS[kind.name]
    blocks = raw.reshape(-1, kind.block_nbytes)
    scales = blocks[:, : np.dtype(scale_type).itemsize].view(scale_type).astype(np.float32)
    values = blocks[:, start : start + kind.block].view(np.int8).astype(np.float32)
    np.multiply(scales, values, out=out.reshape(-1, kind.block))


_FINDERS = {
    Backend.KERNELS: _kernels,
    Backend.LIBGGML: prebuilt.libggml_back,
    Backend.LIBGGUF: prebuilt.libgguf_back,
    Backend.GGUF: prebuilt.gguf_back,
}


def _dequantiser(kind: GGMLType, backend: Backend | None) -> Dequantiser:
    for name in Backend if backend is None else (backend,):
        found = _FINDERS[name](kind)
        if found is not None:
            return found
    raise UnsupportedError(
        f"nothing installed here reads {kind}", hint="pip install 'adaptool[ggml]' brings a prebuilt ggml"
    )
