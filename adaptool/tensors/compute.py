"""Where the arithmetic of a merge runs: NumPy on the CPU, torch for a GPU (imported only when asked for).

A patch is written once, against the few operations of ``Compute``; arrays of either backend take the
same operators. The NumPy backend fuses the commonest step (W + s·Δ, rounded once) into one compiled
pass where the kernels were built, and takes several passes over a cached tile where not: same bytes.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from adaptool.errors import UsageError
from adaptool.tensors.dtypes import Array, DType, Floats, narrow, widen
from adaptool.tensors.kernels import library

LANES = 8
"""How many partial sums PyTorch's CPU norm keeps, whatever the processor."""

Values = Any
"""An array of the backend in use: ``numpy.ndarray`` or ``torch.Tensor``, float32 or float64."""


class Compute(ABC):
    """The operations a patch may use. ``raw`` is a C-contiguous NumPy array of storage bits."""

    name: str

    @abstractmethod
    def load(self, raw: Array, kind: DType) -> Values:
        """Stored bits as floats of the backend: float32, or float64 for F64."""

    @abstractmethod
    def store(self, values: Values, raw: Array, kind: DType) -> None:
        """Round ``values`` to ``kind``, once, to nearest even, into ``raw``."""

    @abstractmethod
    def array(self, values: Array) -> Values:
        """A NumPy float array in the backend."""

    @abstractmethod
    def host(self, values: Values) -> Floats:
        """An array of the backend as NumPy."""

    @abstractmethod
    def matmul(self, left: Values, right: Values) -> Values:
        """``left @ right``; the result is scratch that the next call on this thread may reuse."""

    @abstractmethod
    def row_norms(self, values: Values) -> Values:
        """‖·‖₂ of each row, in the type of ``values``, summed in the order PyTorch sums in where that is float32."""

    def add(self, raw: Array, kind: DType, delta: Values, scale: float, *, safe: bool) -> None:
        """W ← round(W + delta·scale) in place; ``safe`` rounds delta·scale to W's type first, as safe_merge does."""
        update = delta * scale
        if safe:
            rounded = np.empty_like(raw)
            self.store(update, rounded, kind)
            update = self.load(rounded, kind)
        self.store(self.load(raw, kind) + update, raw, kind)


class NumpyCompute(Compute):
    """The default: no dependency, constant memory, one thread per caller."""

    name = "cpu"

    def __init__(self, *, compiled: bool = True) -> None:
        self._library = library() if compiled else None
        self._scratch = threading.local()

    def __reduce__(self) -> tuple[object, ...]:
        return NumpyCompute, ()

    @property
    def compiled(self) -> bool:
        """Whether the compiled kernels run, rather than their NumPy equivalents."""
        return self._library is not None

    def load(self, raw: Array, kind: DType) -> Values:
        if self._library is None or kind.name not in ("BF16", "F16"):
            return widen(raw, kind)
        values = np.empty(raw.shape, np.float32)
        getattr(self._library, f"widen_{kind.name.lower()}")(raw.ctypes.data, values.ctypes.data, raw.size)
        return values

    def store(self, values: Values, raw: Array, kind: DType) -> None:
        if self._library is None or kind.name not in ("BF16", "F16") or values.dtype != np.float32:
            raw[...] = narrow(values, kind).reshape(raw.shape)
            return
        values = np.ascontiguousarray(values)
        getattr(self._library, f"narrow_{kind.name.lower()}")(values.ctypes.data, raw.ctypes.data, raw.size)

    def array(self, values: Array) -> Values:
        return values

    def host(self, values: Values) -> Floats:
        return np.asarray(values)

    def matmul(self, left: Values, right: Values) -> Values:
        shape = (left.shape[0], right.shape[1])
        if left.dtype != np.float32:
            return left @ right
        scratch = self._reused("delta", shape[0] * shape[1], np.float32)
        return np.matmul(left, right, out=scratch.reshape(shape))

    def row_norms(self, values: Values) -> Values:
        if values.dtype != np.float32:
            return np.sqrt(np.einsum("ij,ij->i", values, values))
        values = np.ascontiguousarray(values)
        sums = np.empty(values.shape[0], np.float32)
        if self._library is not None:
            self._library.row_squares_f32(values.ctypes.data, sums.ctypes.data, *values.shape)
            return np.sqrt(sums)
        return np.sqrt(_row_squares(values))

    def add(self, raw: Array, kind: DType, delta: Values, scale: float, *, safe: bool) -> None:
        form = "safe" if safe and kind.name != "F32" else "once"
        function = getattr(self._library, f"add_{form}_{kind.name.lower()}", None)
        if delta.dtype != np.float32:
            super().add(raw, kind, delta, scale, safe=safe)
        elif function is not None:
            function(raw.ctypes.data, np.ascontiguousarray(delta).ctypes.data, scale, raw.size)
        elif safe or kind.name != "BF16" or not self._add_bf16(raw, delta, np.float32(scale)):
            super().add(raw, kind, delta, float(np.float32(scale)), safe=safe)

    def _add_bf16(self, raw: Array, delta: Floats, scale: np.float32) -> bool:
        """What the kernel does, in few passes over cached arrays; False, and nothing done, at NaN or Inf."""
        update = np.multiply(delta, scale, out=self._reused("update", raw.size, np.float32).reshape(raw.shape))
        bits = self._reused("bits", raw.size, np.uint32).reshape(raw.shape)
        np.copyto(bits, raw)
        bits <<= 16
        update += bits.view(np.float32)
        flat = update.reshape(-1)
        with np.errstate(over="ignore", invalid="ignore"):
            if not np.isfinite(np.dot(flat, flat)):
                return False
        sums = update.view(np.uint32)
        np.right_shift(sums, 16, out=bits)
        bits &= 1
        bits += 0x7FFF
        sums += bits
        raw[...] = sums.view(np.uint16)[..., 1::2]
        return True

    def _reused(self, name: str, size: int, kind: type[np.generic]) -> Array:
        """This thread's buffer of that name, at least ``size`` long."""
        held = getattr(self._scratch, name, None)
        if held is None or held.size < size:
            held = np.empty(size, kind)
            setattr(self._scratch, name, held)
        return held[:size]


def _row_squares(values: Floats) -> Floats:
    """Sums of squares of each row in eight lanes, one after another: what the compiled kernel computes."""
    rows, columns = values.shape
    whole = columns - columns % LANES
    squares = values * values
    lanes = np.zeros((rows, LANES), np.float32)
    for start in range(0, whole, LANES):
        lanes += squares[:, start : start + LANES]
    sums = lanes[:, 0].copy()
    for lane in range(1, LANES):
        sums += lanes[:, lane]
    for column in range(whole, columns):
        sums += squares[:, column]
    return sums


class TorchCompute(Compute):
    """The same block arithmetic in torch: ``cuda``, or ``torch-cpu`` to test that path without a GPU."""

    def __init__(self, device: str) -> None:
        try:
            import torch
        except ImportError:
            raise UsageError(
                f"--device {device} needs torch", hint='install it with: pip install "adaptool[torch]"'
            ) from None
        if device == "cuda" and not torch.cuda.is_available():
            raise UsageError("--device cuda: torch sees no GPU here", hint="leave --device out to run on the CPU")
        self.name = device
        self._torch = torch
        self._device = "cpu" if device == "torch-cpu" else device
        self._types = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
        # TF32 would silently drop 13 bits of every factor.
        torch.backends.cuda.matmul.allow_tf32 = False

    def __reduce__(self) -> tuple[object, ...]:
        return TorchCompute, (self.name,)

    def load(self, raw: Array, kind: DType) -> Values:
        stored = self._torch.from_numpy(raw).view(self._types[kind.name]).to(self._device)
        return stored if kind.name == "F64" else stored.to(self._torch.float32)

    def store(self, values: Values, raw: Array, kind: DType) -> None:
        rounded = values.to(self._types[kind.name]).reshape(raw.shape).contiguous().to("cpu")
        self._torch.from_numpy(raw).view(self._types[kind.name]).copy_(rounded)

    def array(self, values: Array) -> Values:
        return self._torch.from_numpy(np.ascontiguousarray(values)).to(self._device)

    def host(self, values: Values) -> Floats:
        return np.asarray(values.cpu().numpy())

    def matmul(self, left: Values, right: Values) -> Values:
        return left @ right

    def row_norms(self, values: Values) -> Values:
        return self._torch.linalg.norm(values, dim=1)


def compute_for(device: str) -> Compute:
    """The backend for ``cpu``, ``cuda`` or ``torch-cpu``; UsageError where it cannot run here."""
    if device == "cpu":
        return NumpyCompute()
    if device in ("cuda", "torch-cpu"):
        return TorchCompute(device)
    raise UsageError(f"unknown device {device!r}", hint="use cpu, cuda or torch-cpu")


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """BLAS on the calling thread only: adaptool parallelises over blocks, and two layers of threads fight."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield
