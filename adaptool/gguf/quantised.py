"""A converted model in the types a recipe chose: rows are quantised as they are read, and kept nowhere."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from adaptool.errors import FormatError
from adaptool.gguf.imatrix import Imatrix
from adaptool.gguf.mixtures import Choice
from adaptool.tensors.dtypes import BF16, F16, F32, Array, DType, Floats, narrow, widen
from adaptool.tensors.ggml.quantize import all_finite, quantize
from adaptool.tensors.ggml.types import GGMLType
from adaptool.tensors.kernels import library
from adaptool.tensors.scratch import Scratch
from adaptool.tensors.store import Extent, Store, TensorInfo, into
from adaptool.tensors.views import View

DAMAGED = "the weights are damaged, or their training diverged"


@dataclass(frozen=True, eq=False)
class Quantised(View):
    """``source`` with every tensor in the type ``choices`` gives it, in the order of ``choices``."""

    source: Store
    choices: Mapping[str, Choice]
    imatrix: Imatrix | None = None
    _scratch: Scratch = field(default_factory=Scratch)

    @cached_property
    def infos(self) -> Mapping[str, TensorInfo]:
        return {name: replace(self.source[name], dtype=choice.dtype) for name, choice in self.choices.items()}

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Array | None = None) -> Array:
        info, start, stop = self.span(name, start, stop)
        stored = self.source[name].dtype
        if info.dtype == stored:
            same = self.source.read(name, start, stop, out)
            if stored == F32:
                self._check_finite(name, np.ascontiguousarray(same, np.float32))
            return same
        rows = self._scratch.rows("stored", stop - start, info.columns, stored.storage)
        floats = self._scratch.rows("floats", stop - start, info.columns, "<f4")
        values = widened(self.source.read(name, start, stop, rows), stored, floats)
        if isinstance(info.dtype, GGMLType):
            return self._quantised(info, info.dtype, values, start, out)
        self._check_finite(name, values)
        with np.errstate(over="ignore"):
            rounded = narrow(values, info.dtype)
        if info.dtype == F16 and not np.isfinite(rounded.view(np.float16)).all():
            raise FormatError(
                f"{self.source}: {name} does not fit float16, whose largest number is 65504",
                hint="convert to bf16, or to a quantised type",
            )
        return into(out, rounded)

    def _check_finite(self, name: str, values: Floats) -> None:
        """Like the quantised types: norms that are not numbers make answers that are none."""
        if not all_finite(values):
            raise FormatError(f"{self.source}: {name} holds NaN or Inf", hint=DAMAGED)

    def _quantised(self, info: TensorInfo, kind: GGMLType, values: Floats, start: int, out: Array | None) -> Array:
        """Quantise rows; with an imatrix each expert's rows by that expert's weights."""
        if out is None:
            out = np.empty((len(values), info.row_nbytes), np.uint8)
        experts = info.shape[-3] if len(info.shape) > 2 else 1
        weights = self.imatrix.weights(info.name, info.columns, experts) if self.imatrix else None
        each = info.rows // experts
        try:
            if weights is None or len(weights) == 1:
                return quantize(values, kind, None if weights is None else weights[0], out)
            row = start
            while row < start + len(values):
                stop = min(start + len(values), (row // each + 1) * each)
                part = slice(row - start, stop - start)
                quantize(values[part], kind, weights[row // each], out[part])
                row = stop
        except FormatError as error:
            hint = error.hint or DAMAGED
            raise FormatError(f"{self.source}: {info.name} {error.message}", hint=hint) from error
        return out

    def extent(self, name: str) -> Extent | None:
        return self.source.extent(name) if self[name].dtype == self.source[name].dtype else None

    @property
    def transforms(self) -> bool:
        return True


def widened(raw: Array, kind: DType, out: Floats) -> Floats:
    """Stored bits as float32, in ``out``: by the compiled kernel where there is one (same bits)."""
    kernels = library()
    if kernels is None or kind not in (BF16, F16) or not raw.flags.c_contiguous:
        np.copyto(out, widen(raw, kind), casting="same_kind")
        return out
    (kernels.widen_bf16 if kind == BF16 else kernels.widen_f16)(raw.ctypes.data, out.ctypes.data, raw.size)
    return out


@dataclass(frozen=True, eq=False)
class Shared(View):
    """``source``, with the rows a thread last read kept: several files made of the same rows read them once."""

    source: Store
    _last: threading.local = field(default_factory=threading.local)

    def __reduce__(self) -> tuple[object, ...]:
        return Shared, (self.source,)

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Array | None = None) -> Array:
        stop = self[name].rows if stop is None else stop
        if getattr(self._last, "key", None) != (name, start, stop):
            self._last.rows = self.source.read(name, start, stop)
            self._last.key = (name, start, stop)
        return into(out, self._last.rows)
