"""Low-rank factors: where a delta's two matrices lie in the adapter, and how they are laid out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np

from adaptool.tensors.dtypes import F64, DType, Floats
from adaptool.tensors.store import Store

Number = Literal["float32", "float64"]
"""What a merge computes in: float32, and float64 for an F64 base and for checks."""


@dataclass(frozen=True)
class Factors:
    """Where the low-rank factors of one matrix lie, and how they are laid out.

    Shapes: A (r, in, …), B (out, r, …); fused experts keep A (E·r, in) expert-major and B (out, r·E)
    expert-minor. ``swapped`` factors make the transpose: Conv1D stores (in, out), embeddings (vocab, dim).
    """

    store: Store
    a: str
    b: str
    rank: int
    swapped: bool = False
    diagonal: str | None = None
    """KaSA's lora_diag (r,), between B and A."""
    blocks_a: int = 1
    blocks_b: int = 1
    """BD-LoRA: the factor is block-diagonal, saved as its blocks stacked."""
    experts: int = 1
    expert: int = 0
    first_row: int = 0
    """The delta's row that is the tensor's row 0: gate and up share one fused delta."""

    def load(self, number: Number) -> tuple[Floats, Floats]:
        """Matrices (left, right) with ΔW/s = left @ right, as ``number``."""
        return _load(self, number)

    def each(self) -> tuple[Factors, ...]:
        """The factors of every expert."""
        return tuple(replace(self, expert=expert) for expert in range(self.experts))


@lru_cache(maxsize=6)
def _load(factors: Factors, number: Number) -> tuple[Floats, Floats]:
    """The factors of the tensors being worked on, and no more: each worker is inside one tensor at a time."""
    a = _array(factors.store, factors.a, number)
    b = _array(factors.store, factors.b, number)
    if factors.experts > 1:
        a = a.reshape(factors.experts, factors.rank, -1)[factors.expert]
        b = np.ascontiguousarray(b.reshape(b.shape[0], factors.rank, factors.experts)[:, :, factors.expert])
    a = a.reshape(a.shape[0], -1)
    b = b.reshape(b.shape[0], -1)
    if factors.blocks_a > 1:
        a = block_diagonal(a, factors.blocks_a)
    if factors.blocks_b > 1:
        b = block_diagonal(b, factors.blocks_b)
    if factors.diagonal is not None:
        b = b * factors.store.array(factors.diagonal).astype(number, copy=False)
    left, right = (a.T, b.T) if factors.swapped else (b, a)
    return left[factors.first_row :], right


@lru_cache(maxsize=4)
def _array(store: Store, key: str, number: Number) -> Floats:
    """A saved factor; kept a while because the experts of a layer are tensors of their own and share it."""
    return store.array(key).astype(number, copy=False)


def block_diagonal(stacked: Floats, blocks: int) -> Floats:
    """The matrix whose diagonal blocks are ``stacked`` cut into ``blocks`` along its rows."""
    height, width = stacked.shape[0] // blocks, stacked.shape[1]
    result = np.zeros((stacked.shape[0], width * blocks), stacked.dtype)
    for i in range(blocks):
        result[i * height : (i + 1) * height, i * width : (i + 1) * width] = stacked[i * height : (i + 1) * height]
    return result


def number_of(kind: DType) -> Number:
    """The type PEFT computes in on a base of ``kind``: float32, which only F64 exceeds."""
    return "float64" if kind == F64 else "float32"
