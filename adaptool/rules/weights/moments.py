"""One pass over a tensor's values: what rules need of them, and the Gram matrix of a low-rank factor, block by block.

Everything is summed in float64, so that nothing a 16-bit or 32-bit tensor can hold overflows; blocks are small enough
to stay in a processor's cache, where the second and third look at a value costs little.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptool.tensors.compute import NumpyCompute
from adaptool.tensors.dtypes import Floats
from adaptool.tensors.scratch import Scratch
from adaptool.tensors.store import Store, TensorInfo

Gram = NDArray[Any]
"""(experts, r, r) float64: A·Aᵀ or Bᵀ·B of every expert."""

BLOCK = 1 << 17
"""Elements looked at at once: one mebibyte as float64."""

SMALL = 1 << 13
"""Elements of a tensor that is looked at together with others like it: alone, the calls cost more than the work."""

RANK_LIMIT = 512
"""Beyond it a Gram matrix costs more than it tells; no adapter in use comes near."""

SMALL_RANK = 16
"""A rank above it and above the factor's other axis costs more than reading it: only a file made for that has it."""

GRAM_LIMIT = 1 << 22
"""Elements of the Gram matrices of one factor's experts: 32 MiB."""

WHOLE_LIMIT = 64 << 20
"""Bytes of a lora_A that are held at once: its Gram matrix needs all rows of a column together."""


@dataclass(frozen=True, slots=True)
class Moments:
    """What the values of one floating tensor, or a part of it, say; −0 is 0."""

    size: int
    not_finite: int
    """NaN and ±Inf; the figures below are of the other values, and 0 where there are none."""
    smallest: float
    largest: float
    squares: float
    """Σx²; infinite where a float64 tensor overflows even that."""
    zeros: int

    @property
    def absmax(self) -> float:
        """The largest |x|."""
        return max(self.largest, -self.smallest, 0.0)

    @property
    def rms(self) -> float:
        """√(Σx²/n): the size of a typical value."""
        finite = self.size - self.not_finite
        return math.sqrt(self.squares / finite) if finite else 0.0

    @property
    def constant(self) -> float | None:
        """The value that every element has; None where they differ, where one is not finite, and of an empty tensor."""
        return self.smallest if self.size and not self.not_finite and self.smallest == self.largest else None

    def __add__(self, other: Moments) -> Moments:
        mine, others = self.size > self.not_finite, other.size > other.not_finite
        known = [part for part, there in ((self, mine), (other, others)) if there]
        return Moments(
            self.size + other.size, self.not_finite + other.not_finite,
            min((part.smallest for part in known), default=0.0), max((part.largest for part in known), default=0.0),
            self.squares + other.squares, self.zeros + other.zeros,
        )  # fmt: skip


NOTHING = Moments(0, 0, 0.0, 0.0, 0.0, 0)

Looked = tuple[Moments, Gram | None]
"""A tensor's moments, and of a finite factor of reasonable size the Gram matrices of its experts."""


@dataclass(frozen=True, slots=True)
class Side:
    """How a tensor is a factor: A is (experts·rank, …), expert-major; B is (out, rank·experts), expert-minor."""

    rank: int
    experts: int
    rank_first: bool


class Pass:
    """Reads tensors one after another into the same few buffers."""

    def __init__(self, store: Store, compute: NumpyCompute | None = None) -> None:
        self._store = store
        self._compute = compute or NumpyCompute()
        self._scratch = Scratch()

    def several(self, wanted: Mapping[str, Side | None]) -> dict[str, Looked]:
        """What ``tensor`` says of each, in any order: the small ones by dozens of one type, shape and side."""
        found: dict[str, Looked] = {}
        alike: dict[tuple[str, tuple[int, ...], Side | None], list[str]] = {}
        infos = self._store.infos
        for name, side in wanted.items():
            info = infos[name]
            if 0 < info.size <= SMALL and (side is None or side.experts == 1):
                alike.setdefault((info.dtype.name, info.shape, side), []).append(name)
            else:
                found[name] = self.tensor(name, side)
        for (_, _, side), names in alike.items():
            info = infos[names[0]]
            step = max(1, BLOCK // info.size)
            fitting = side if side is not None and fits(info, side) else None
            for first in range(0, len(names), step):
                some = names[first : first + step]
                found.update(zip(some, self._stack(some, info, fitting), strict=True))
        return found

    def _stack(self, names: Sequence[str], info: TensorInfo, side: Side | None) -> Iterator[Looked]:
        """Tensors like ``info``, in one array."""
        raw = self._scratch.rows("raw", len(names) * info.rows, info.width, info.dtype.storage)
        self._store.gather(names, raw.reshape(len(names), -1).view(np.uint8))
        values = self._compute.load(raw, info.dtype).reshape(len(names), -1)
        smallest, largest = values.min(1), values.max(1)  # a NaN is both
        finite = np.isfinite(smallest) & np.isfinite(largest)
        exact = self._scratch.rows("exact", len(names), info.size, "f8")
        np.copyto(exact, values)
        figures = zip(
            finite.tolist(), smallest.tolist(), largest.tolist(), np.einsum("ij,ij->i", exact, exact).tolist(),
            np.count_nonzero(values == 0, axis=1).tolist(), strict=True,
        )  # fmt: skip
        grams = None
        if side is not None:
            factors = exact.reshape(len(names), info.shape[0], -1)
            turned = factors.transpose(0, 2, 1)
            grams = np.matmul(factors, turned) if side.rank_first else np.matmul(turned, factors)
        size = info.size
        for number, (whole, low, high, squares, zeros) in enumerate(figures):
            if whole:
                found = Moments(size, 0, low, high, squares, zeros)
                yield found, grams[number : number + 1] if grams is not None else None
            else:
                found, _ = self._block(values[number : number + 1])
                yield found, None

    def tensor(self, name: str, side: Side | None = None) -> Looked:
        """One tensor, block by block."""
        info = self._store[name]
        if not info.size:
            return NOTHING, None
        side = side if side is not None and fits(info, side) else None
        total = NOTHING
        gram = np.zeros((side.experts, side.rank, side.rank)) if side is not None else None
        for values in self._blocks(info, side):
            found, exact = self._block(values)
            total += found
            if exact is None:
                gram = None
            elif gram is not None and side is not None:
                gram += _gram(exact, side)
        return total, gram

    def _blocks(self, info: TensorInfo, side: Side | None) -> Iterator[Floats]:
        """Matrices that make up the tensor: columns of it where the rank is the first axis, else rows."""
        if side is not None and side.rank_first:
            whole = self._read(info, 0, info.rows).reshape(info.shape[0], -1)
            step = max(1, BLOCK // info.shape[0])
            for start in range(0, whole.shape[1], step):
                yield self._compute.load(np.ascontiguousarray(whole[:, start : start + step]), info.dtype)
            return
        lead = 1 if side is None else info.rows // info.shape[0]  # conv: the store's rows of one output channel
        step = lead * max(1, BLOCK // (lead * info.columns))
        for start in range(0, info.rows, step):
            raw = self._read(info, start, min(info.rows, start + step))
            if side is None and raw.size > BLOCK:  # one long row
                for first in range(0, raw.size, BLOCK):
                    yield self._compute.load(raw[:, first : first + BLOCK], info.dtype)
            else:
                yield self._compute.load(raw, info.dtype).reshape(raw.shape[0] // lead, -1)

    def _read(self, info: TensorInfo, start: int, stop: int) -> NDArray[Any]:
        held = self._scratch.rows("raw", stop - start, info.width, info.dtype.storage)
        return self._store.read(info.name, start, stop, out=held)

    def _block(self, values: Floats) -> tuple[Moments, Floats | None]:
        """The moments of a block, and the block as float64 where all of it is finite."""
        smallest, largest = float(values.min()), float(values.max())  # a NaN is both
        if not (math.isfinite(smallest) and math.isfinite(largest)):
            kept = values[np.isfinite(values)]
            lost = Moments(values.size - kept.size, values.size - kept.size, 0.0, 0.0, 0.0, 0)
            return (lost + self._block(kept.reshape(1, -1))[0] if kept.size else lost), None
        exact = self._scratch.rows("exact", values.shape[0], values.shape[1], "f8")
        np.copyto(exact, values)
        flat = exact.reshape(-1)
        zeros = int(np.count_nonzero(values == 0)) if smallest <= 0 <= largest else 0
        return Moments(values.size, 0, smallest, largest, float(flat @ flat), zeros), exact


def fits(info: TensorInfo, side: Side) -> bool:
    """Whether a tensor is of the shape its side says, and its Gram matrices are affordable."""
    ranks = side.rank * side.experts
    if len(info.shape) < 2 or not info.size or side.rank > RANK_LIMIT or ranks * side.rank > GRAM_LIMIT:
        return False
    if side.rank > max(SMALL_RANK, info.size // ranks):
        return False
    if side.rank_first:
        return info.shape[0] == ranks and info.nbytes <= WHOLE_LIMIT
    return info.size // info.shape[0] == ranks


def _gram(block: Floats, side: Side) -> Gram:
    """A part's share: (experts·r, n) of A, (n, r·experts) of B."""
    if side.experts == 1:
        product = block @ block.T if side.rank_first else block.T @ block
        return product[None]
    if side.rank_first:
        factors = block.reshape(side.experts, side.rank, -1)
    else:
        factors = np.ascontiguousarray(block.reshape(-1, side.rank, side.experts).transpose(2, 1, 0))
    return np.matmul(factors, factors.transpose(0, 2, 1))
