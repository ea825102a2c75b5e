"""The element types of GGML: blocks of elements that share scales, quantised row by row.

Source: ggml.h (the numbers) and ggml-common.h (the layout of each block) of llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

from adaptool.errors import UnsupportedError
from adaptool.tensors.dtypes import DTYPES, DType


@dataclass(frozen=True, slots=True)
class GGMLType(DType):
    """A quantised type: ``block`` elements in ``block_nbytes`` bytes. Its rows are held as bytes (``u1``)."""

    id: int = -1
    block: int = 1
    block_nbytes: int = 1

    def row_nbytes(self, columns: int) -> int:
        """Bytes of a row of ``columns`` elements, which must be a multiple of ``block``."""
        return columns // self.block * self.block_nbytes

    @property
    def blocked(self) -> bool:
        """Always."""
        return True

    @property
    def bits_per_weight(self) -> float:
        """What one element costs."""
        return self.block_nbytes * 8 / self.block

    def __reduce__(self) -> tuple[object, ...]:
        return ggml_type, (self.name,)


def _quantised(id: int, name: str, block: int, block_nbytes: int) -> GGMLType:
    return GGMLType(name, 0, "u1", floating=True, id=id, block=block, block_nbytes=block_nbytes)


GGML_TYPES = {
    kind.name: kind
    for kind in (
        _quantised(2, "Q4_0", 32, 18),
        _quantised(3, "Q4_1", 32, 20),
        _quantised(6, "Q5_0", 32, 22),
        _quantised(7, "Q5_1", 32, 24),
        _quantised(8, "Q8_0", 32, 34),
        _quantised(9, "Q8_1", 32, 36),
        _quantised(10, "Q2_K", 256, 84),
        _quantised(11, "Q3_K", 256, 110),
        _quantised(12, "Q4_K", 256, 144),
        _quantised(13, "Q5_K", 256, 176),
        _quantised(14, "Q6_K", 256, 210),
        _quantised(15, "Q8_K", 256, 292),
        _quantised(16, "IQ2_XXS", 256, 66),
        _quantised(17, "IQ2_XS", 256, 74),
        _quantised(18, "IQ3_XXS", 256, 98),
        _quantised(19, "IQ1_S", 256, 50),
        _quantised(20, "IQ4_NL", 32, 18),
        _quantised(21, "IQ3_S", 256, 110),
        _quantised(22, "IQ2_S", 256, 82),
        _quantised(23, "IQ4_XS", 256, 136),
        _quantised(29, "IQ1_M", 256, 56),
        _quantised(34, "TQ1_0", 256, 54),
        _quantised(35, "TQ2_0", 256, 66),
        _quantised(39, "MXFP4", 32, 17),
    )
}

PLAIN_IDS = {"F32": 0, "F16": 1, "I8": 24, "I16": 25, "I32": 26, "I64": 27, "F64": 28, "BF16": 30}
"""The types GGML shares with safetensors."""

_BY_ID = {kind.id: kind for kind in GGML_TYPES.values()} | {number: DTYPES[name] for name, number in PLAIN_IDS.items()}


def ggml_type(name: str) -> DType:
    """The type GGML calls ``name`` ("Q4_K", "f16"), quantised or plain."""
    key = name.upper()
    if key in GGML_TYPES:
        return GGML_TYPES[key]
    if key in PLAIN_IDS:
        return DTYPES[key]
    known = ", ".join(sorted(kind.lower() for kind in (*GGML_TYPES, *PLAIN_IDS)))
    raise UnsupportedError(f"unknown GGML type {name!r}", hint=f"one of: {known}")


def type_of_id(number: int) -> DType | None:
    """The type with this number in a GGUF file, or None where it is one this version does not know."""
    return _BY_ID.get(number)


def id_of(kind: DType) -> int:
    """The number a GGUF file calls ``kind`` by."""
    if isinstance(kind, GGMLType):
        return kind.id
    try:
        return PLAIN_IDS[kind.name]
    except KeyError:
        raise UnsupportedError(f"GGUF has no type for {kind}") from None
