"""The element types safetensors knows, and exact conversions between them and float32/float64.

NumPy has no bfloat16 or float8, so every type names the NumPy type its *bytes* are held in
(``storage``); ``widen`` turns stored bits into floats and ``narrow`` rounds floats back, to
nearest, ties to even, as IEEE 754 and PyTorch do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptool.errors import UnsupportedError

Array = NDArray[Any]
Floats = NDArray[Any]
"""float32 or float64."""


@dataclass(frozen=True, slots=True)
class DType:
    """One element type: its safetensors name, its width in bits and the NumPy type of its bytes."""

    name: str
    bits: int
    storage: str
    floating: bool = False

    @property
    def itemsize(self) -> int:
        """Bytes per element; 1 for the packed types, whose last axis is counted in bits."""
        return max(1, self.bits // 8)

    def row_nbytes(self, columns: int) -> int:
        """Bytes of a row of ``columns`` elements."""
        return (columns * self.bits + 7) // 8

    @property
    def blocked(self) -> bool:
        """Whether elements share bytes, in blocks: the quantised types of GGML."""
        return False

    @property
    def mergeable(self) -> bool:
        """Whether arithmetic on it means anything here: the float types that hold weights."""
        return self.name in ("BF16", "F16", "F32", "F64")

    @property
    def torch_name(self) -> str:
        """What config.json calls a float type: bfloat16, …"""
        return {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}.get(self.name, self.name)

    def __str__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[object, ...]:
        return dtype, (self.name,)


DTYPES = {
    kind.name: kind
    for kind in (
        DType("BOOL", 8, "u1"),
        DType("F4", 4, "u1", floating=True),
        DType("F6_E2M3", 6, "u1", floating=True),
        DType("F6_E3M2", 6, "u1", floating=True),
        DType("U8", 8, "u1"),
        DType("I8", 8, "i1"),
        DType("F8_E5M2", 8, "u1", floating=True),
        DType("F8_E4M3", 8, "u1", floating=True),
        DType("F8_E8M0", 8, "u1", floating=True),
        DType("F8_E4M3FNUZ", 8, "u1", floating=True),
        DType("F8_E5M2FNUZ", 8, "u1", floating=True),
        DType("I16", 16, "<i2"),
        DType("U16", 16, "<u2"),
        DType("F16", 16, "<u2", floating=True),
        DType("BF16", 16, "<u2", floating=True),
        DType("I32", 32, "<i4"),
        DType("U32", 32, "<u4"),
        DType("F32", 32, "<f4", floating=True),
        DType("C64", 64, "<c8"),
        DType("F64", 64, "<f8", floating=True),
        DType("I64", 64, "<i8"),
        DType("U64", 64, "<u8"),
    )
}

TORCH_NAMES = {
    "bfloat16": "BF16",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "bf16": "BF16",
    "fp16": "F16",
    "fp32": "F32",
    "half": "F16",
}


def dtype(name: str) -> DType:
    """The element type called ``name``, by its safetensors or PyTorch name."""
    try:
        return DTYPES[TORCH_NAMES.get(name.lower().removeprefix("torch."), name.upper())]
    except KeyError:
        raise UnsupportedError(f"unknown element type {name!r}") from None


BF16, F16, F32, F64 = DTYPES["BF16"], DTYPES["F16"], DTYPES["F32"], DTYPES["F64"]


def bytes_of(array: Array) -> memoryview:
    """A C-contiguous array's bytes, for reading into and writing from."""
    return array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")


def most_common(sizes: Iterable[tuple[DType, int]]) -> DType:
    """The mergeable type with the most elements, F32 where there is none."""
    totals: dict[DType, int] = {}
    for kind, size in sizes:
        if kind.mergeable:
            totals[kind] = totals.get(kind, 0) + size
    return max(totals, key=lambda kind: totals[kind]) if totals else F32


def widen(raw: Array, kind: DType) -> Floats:
    """Stored bits of a float type as float32 (float64 stays float64), exactly; same shape, a new array or a view."""
    match kind.name:
        case "F32" | "F64":
            return raw
        case "BF16":
            bits = raw.astype(np.uint32)
            bits <<= 16
            return bits.view(np.float32)
        case "F16":
            return raw.view(np.float16).astype(np.float32)
        case name if name.startswith("F8"):
            return _f8_table(name)[raw]
    raise UnsupportedError(f"{kind} holds no floating-point numbers that can be read one by one")


def narrow(values: Floats, kind: DType) -> Array:
    """Floats rounded once to ``kind``, to nearest even, as its storage bits (float64 does not go through float32)."""
    match kind.name:
        case "F64":
            return values.astype(np.float64, copy=False)
        case "F32":
            return values.astype(np.float32, copy=False)
        case "F16":
            with np.errstate(over="ignore"):
                return values.astype(np.float16).view(np.uint16)
        case "BF16":
            return _bf16_bits(_odd_f32(values))
    raise UnsupportedError(f"writing {kind} is not supported", hint="use one of: bfloat16, float16, float32, float64")


def _odd_f32(values: Floats) -> NDArray[np.float32]:
    """float64 as float32 rounded *to odd*, so that a second rounding to a shorter type is still the nearest one.

    Source: S. Boldo, G. Melquiond, "Emulation of FMA and correctly rounded sums", 2008.
    """
    if values.dtype == np.float32:
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        near = values.astype(np.float32)
    bits = near.view(np.uint32)
    exact = (near == values) | ~np.isfinite(near)
    away = np.abs(near.astype(np.float64)) > np.abs(values)
    truncated = bits - (away & ~exact).astype(np.uint32)
    return (truncated | (~exact).astype(np.uint32)).view(np.float32)


def _bf16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    result = rounded.astype(np.uint16)
    result[np.isnan(values)] = 0x7FC0
    return result


@cache
def _f8_table(name: str) -> NDArray[np.float32]:
    """The 256 values of an 8-bit float type.

    Source: OCP 8-bit Floating Point Specification 1.0 (E4M3, E5M2), OCP MX 1.0 (E8M0), and
    Noune et al., "8-bit Numerical Formats for Deep Neural Networks" (the FNUZ types: one zero, one NaN, bias + 1).
    """
    codes = np.arange(256, dtype=np.int64)
    if name == "F8_E8M0":
        values = np.ldexp(1.0, codes - 127)
        values[255] = np.nan
        return values.astype(np.float32)
    mantissa_bits = 3 if "E4M3" in name else 2
    fnuz = name.endswith("FNUZ")
    exponent_bits = 7 - mantissa_bits
    bias = (1 << (exponent_bits - 1)) - (0 if fnuz else 1)
    sign = np.where(codes & 0x80, -1.0, 1.0)
    exponent = (codes & 0x7F) >> mantissa_bits
    fraction = (codes & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    values = sign * np.where(exponent == 0, np.ldexp(fraction, 1 - bias), np.ldexp(1 + fraction, exponent - bias))
    if fnuz:
        values[0x80] = np.nan
    elif name == "F8_E4M3":
        values[[0x7F, 0xFF]] = np.nan
    else:
        top = exponent == (1 << exponent_bits) - 1
        values[top] = np.where(fraction[top] == 0, sign[top] * np.inf, np.nan)
    return values.astype(np.float32)
