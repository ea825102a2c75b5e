"""Patches: what an adapter does to one tensor of the base, as pure functions over blocks of rows.

A patch holds no tensor. It is a small picklable description that reads the factors it needs when a
block asks for them, so a merge holds a few blocks whatever the model's size.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from adaptool.adapters.blocks import Block, tile_stop
from adaptool.adapters.factors import Factors, Number, number_of
from adaptool.tensors.compute import Compute, NumpyCompute, Values
from adaptool.tensors.dtypes import Array, Floats, widen
from adaptool.tensors.store import Store

Rounding = Literal["asked", "once", "twice"]
"""How PEFT adds a delta: as safe_merge asks; or, whatever it asks, in one rounding (the second of MHA's out_proj), or
rounding the delta first (embeddings, MHA, experts, BD-LoRA, KaSA, MiCA)."""


class Patch(ABC):
    """One adapter's effect on one tensor."""

    label = "update"
    """A word for plans and reports."""
    whole = False
    """Whether a row depends on every row of the base, so that the tensor is one block."""

    @abstractmethod
    def apply(self, block: Block, compute: Compute, *, safe: bool) -> None:
        """Change the block in place, rounding as PEFT does (``safe``: as its ``safe_merge=True``)."""

    @abstractmethod
    def exact(self, values: Floats, block: Block) -> Floats:
        """The patched rows of ``block`` in float64, unrounded; ``values`` is what came before this patch.

        What a sample of the written rows is checked against: plain NumPy, none of ``apply``'s machinery.
        """


@dataclass(frozen=True)
class LowRank(Patch):
    """W + s·(left @ right): plain LoRA, and most of its relatives; one entry of ``factors`` per expert."""

    factors: tuple[Factors, ...]
    scale: float
    rounding: Rounding = "asked"
    by_expert: bool = False
    """The tensor is (E, d1, d2), a matrix per expert."""

    def apply(self, block: Block, compute: Compute, *, safe: bool) -> None:
        for start, stop, delta in self.deltas(block, compute):
            compute.add(
                block.rows(start, stop),
                block.kind,
                delta,
                self.scale,
                safe=safe if self.rounding == "asked" else self.rounding == "twice",
            )

    def undo(self, block: Block, compute: Compute) -> None:
        """Take the delta out of the block again, rounding as PEFT's ``unmerge`` does."""
        for start, stop, delta in self.deltas(block, compute):
            compute.add(block.rows(start, stop), block.kind, delta, -self.scale, safe=True)

    def deltas(self, block: Block, compute: Compute) -> Iterator[tuple[int, int, Values]]:
        """Each tile's (start, stop, ΔW/s); the array is scratch."""
        number, loaded = number_of(block.kind), -1
        for start, stop in block.tiles():
            expert, row = divmod(start, block.height)
            if expert != loaded:
                left, right = (compute.array(side) for side in self.factors[expert].load(number))
                loaded = expert
            yield start, stop, compute.matmul(left[row : row + stop - start], right)

    @property
    def inert(self) -> bool:
        """Whether the delta is zero everywhere: an untrained B, or a scale of 0."""
        return self.scale == 0 or not any(
            all(side.any() for side in factors.load("float32")) for factors in self.factors
        )

    def exact(self, values: Floats, block: Block) -> Floats:
        expert, row = divmod(block.start, block.height)
        left, right = self.factors[expert].load("float64")
        return values + (left[row : row + values.shape[0]] @ right) * self.scale


@dataclass(frozen=True)
class Dora(Patch):
    """m/‖W + Δ‖ · (W + Δ), the norm over the inputs of each output (arXiv 2402.09353).

    Each norm is of the *unmerged* W plus this adapter's delta, as PEFT's forward computes it.
    """

    label = "DoRA"
    low_rank: LowRank
    magnitude: str
    """The key of lora_magnitude_vector, one number per output."""

    def apply(self, block: Block, compute: Compute, *, safe: bool) -> None:
        for raw, delta, factor in self._tiles(block, compute):
            compute.store(factor * (compute.load(raw, block.kind) + delta), raw, block.kind)

    def undo(self, block: Block, compute: Compute) -> None:
        """Take the effect out of the block again, rounding as PEFT's ``unmerge`` does."""
        for raw, delta, factor in self._tiles(block, compute):
            compute.store(compute.load(raw, block.kind) / factor - delta, raw, block.kind)

    def _tiles(self, block: Block, compute: Compute) -> Iterator[tuple[Array, Values, Values]]:
        """Each tile's storage bits, ΔW, and m/‖·‖ of its rows as a column."""
        magnitude = self.magnitudes(number_of(block.kind))
        unmerged = block.base(block.start, block.stop)
        for start, stop, delta in self.low_rank.deltas(block, compute):
            delta = delta * self.low_rank.scale
            original = compute.load(unmerged[start - block.start : stop - block.start], block.kind)
            norms = compute.row_norms(original + delta)
            yield block.rows(start, stop), delta, (compute.array(magnitude[start:stop]) / norms)[:, None]

    def exact(self, values: Floats, block: Block) -> Floats:
        unmerged = widen(block.raw, block.kind).astype(np.float64)
        norms = np.linalg.norm(self.low_rank.exact(unmerged, block), axis=1)
        magnitude = self.magnitudes("float64")[block.start : block.stop]
        return self.low_rank.exact(values, block) * (magnitude / norms)[:, None]

    def magnitudes(self, number: Number) -> Floats:
        """m, shape (outputs,)."""
        return self.low_rank.factors[0].store.array(self.magnitude).astype(number).reshape(-1)


@dataclass(frozen=True)
class DoraByColumn(Dora):
    """DoRA where the outputs are the tensor's columns (Conv1D, embeddings): the norms take a pass over the base."""

    norms: OnceNorms

    def _tiles(self, block: Block, compute: Compute) -> Iterator[tuple[Array, Values, Values]]:
        norms = compute.array(self._norms(block, compute))
        factor = compute.array(self.magnitudes(number_of(block.kind))) / norms
        for start, stop, delta in self.low_rank.deltas(block, compute):
            yield block.rows(start, stop), delta * self.low_rank.scale, factor[None, :]

    def _norms(self, block: Block, compute: Compute) -> Floats:
        if block.raw.shape[0] == block.height:
            return self._measure(block, compute)
        return self.norms.get(lambda: self._measure(block, compute))

    def exact(self, values: Floats, block: Block) -> Floats:
        norms = self._norms(block, NumpyCompute())
        return self.low_rank.exact(values, block) * (self.magnitudes("float64") / norms)[None, :]

    def _measure(self, block: Block, compute: Compute) -> Floats:
        """‖W + Δ‖ of each column, summed row after row as PyTorch sums a strided axis."""
        width = block.raw.shape[1]
        total = np.zeros(width, number_of(block.kind))
        row = 0
        while row < block.height:
            stop = tile_stop(row, block.height, width)
            piece = replace(block, raw=block.base(row, stop), start=row)
            for _, _, delta in self.low_rank.deltas(piece, compute):
                updated = compute.host(compute.load(piece.raw, block.kind) + delta * self.low_rank.scale)
                total = np.add.reduce(np.vstack([total[None, :], updated * updated]), axis=0)
            row = stop
        return np.sqrt(total)


class OnceNorms:
    """One tensor's norms, measured by whichever thread comes first; not pickled."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._norms: Floats | None = None

    def get(self, measure: Callable[[], Floats]) -> Floats:
        """The norms, measured on the first call."""
        with self._lock:
            if self._norms is None:
                self._norms = measure()
            return self._norms

    def __reduce__(self) -> tuple[object, ...]:
        return OnceNorms, ()


@dataclass(frozen=True)
class Truncate(Patch):
    """The base without its ``rank`` smallest singular components, rounded to its type (KaSA, arXiv 2412.06071).

    PEFT does this to the base when it loads the adapter, so it comes before every delta.
    """

    label = "SVD truncation"
    rank: int
    whole = True

    def apply(self, block: Block, compute: Compute, *, safe: bool) -> None:
        values = compute.host(compute.load(block.raw, block.kind)).astype(np.float32, copy=False)
        compute.store(compute.array(self._truncated(values)), block.raw, block.kind)

    def exact(self, values: Floats, block: Block) -> Floats:
        return self._truncated(values)

    def _truncated(self, values: Floats) -> Floats:
        u, s, vh = np.linalg.svd(values, full_matrices=False)
        kept = len(s) - self.rank
        return (u[:, :kept] * s[:kept]) @ vh[:kept]


@dataclass(frozen=True)
class AddVector(Patch):
    """bias + s·b: ``lora_bias``."""

    label = "bias"
    store: Store
    key: str
    scale: float

    def apply(self, block: Block, compute: Compute, *, safe: bool) -> None:
        vector = self.store.array(self.key).astype(number_of(block.kind), copy=False).reshape(block.raw.shape)
        compute.add(block.raw, block.kind, compute.array(vector), self.scale, safe=False)

    def exact(self, values: Floats, block: Block) -> Floats:
        return values + self.store.array(self.key).astype(np.float64).reshape(values.shape) * self.scale


@dataclass(frozen=True)
class TokenRows(Patch):
    """Rows of an embedding replaced by trained ones, in the order of ``indices`` (``trainable_token_indices``)."""

    label = "token rows"
    store: Store
    key: str
    indices: tuple[int, ...]

    def apply(self, block: Block, compute: Compute, *, safe: bool) -> None:
        for position, index in self._inside(block.start, block.stop):
            compute.store(compute.array(self._row(position)), block.rows(index, index + 1), block.kind)

    def exact(self, values: Floats, block: Block) -> Floats:
        result = values.copy()
        for position, index in self._inside(block.start, block.stop):
            result[index - block.start] = self._row(position)[0]
        return result

    def _row(self, position: int) -> Floats:
        return widen(self.store.read(self.key, position, position + 1), self.store[self.key].dtype)

    def _inside(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        return ((i, index) for i, index in enumerate(self.indices) if start <= index < stop)
