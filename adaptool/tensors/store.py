"""Store: named tensors whose shapes are known before a byte is read, handed out by rows.

A checkpoint is a Store, and so is every view of one (renamed, cast, merged). A Store is a small
picklable description; bytes move only when a writer asks it for rows.

Rows follow the last axis: a tensor of shape (…, n) is a matrix of ``rows`` × ``columns`` with
``columns`` = n. That is the unit quantisers work in, and it lets an expert tensor of gigabytes be
read a little at a time.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from adaptool.errors import MismatchError, NotFoundError
from adaptool.tensors.dtypes import Array, DType, Floats, bytes_of, widen


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What is known of a tensor before it is read."""

    name: str
    dtype: DType
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def columns(self) -> int:
        """Elements in a row: the last axis (1 for a scalar)."""
        return self.shape[-1] if self.shape else 1

    @property
    def rows(self) -> int:
        """How many rows: the product of every axis but the last (1 for vectors and scalars)."""
        return math.prod(self.shape[:-1])

    @property
    def nbytes(self) -> int:
        """Bytes as stored."""
        return self.dtype.row_nbytes(self.size)

    @property
    def width(self) -> int:
        """Elements of the storage type in a row: its columns, or the bytes of a packed or quantised one."""
        return self.row_nbytes // np.dtype(self.dtype.storage).itemsize

    @property
    def row_nbytes(self) -> int:
        """Bytes of one row as stored."""
        return self.dtype.row_nbytes(self.columns)


def totals_by_type(infos: Iterable[TensorInfo]) -> list[tuple[str, int, int]]:
    """(type, tensors of it, bytes) of every type, the one with the most bytes first."""
    counts, sizes = Counter[str](), Counter[str]()
    for info in infos:
        counts[info.dtype.name] += 1
        sizes[info.dtype.name] += info.nbytes
    return [(name, counts[name], nbytes) for name, nbytes in sizes.most_common()]


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a tensor's bytes lie, contiguous, in a file: what a kernel-side copy needs."""

    path: Path
    offset: int
    length: int


class Store(ABC):
    """Named tensors, read by rows.

    Subclasses give ``infos`` and ``read``; those whose bytes lie in a file also give ``extent``.
    """

    @property
    @abstractmethod
    def infos(self) -> Mapping[str, TensorInfo]:
        """Every tensor by name, in the order it is stored."""

    @abstractmethod
    def read(self, name: str, start: int = 0, stop: int | None = None, out: Array | None = None) -> Array:
        """Rows ``start:stop`` of a tensor in its storage type, shape (stop − start, columns).

        Rows of a quantised type are its bytes: shape (stop − start, ``row_nbytes``).

        With ``out`` (C-contiguous, of that shape and type) they are read into it, and it is returned.
        Safe to call from several threads.
        """

    def extent(self, name: str) -> Extent | None:
        """The tensor's bytes in a file, if they lie in one unchanged."""
        return None

    @property
    def files(self) -> frozenset[Path]:
        """The files the tensors are read from."""
        return frozenset(extent.path for name in self.infos if (extent := self.extent(name)))

    @property
    def transforms(self) -> bool:
        """Whether this store computes values rather than handing out those of its files."""
        return False

    def spans(self, name: str, nbytes: int) -> Iterator[tuple[int, int]]:
        """Row ranges of about ``nbytes`` that cover a tensor: the cuts that suit this store."""
        info = self[name]
        step = max(1, nbytes // max(1, info.row_nbytes) if info.columns else info.rows)  # of 2⁵⁰ empty rows, all
        for start in range(0, info.rows, step):
            yield start, min(info.rows, start + step)

    @property
    def metadata(self) -> Mapping[str, str]:
        """The ``__metadata__`` of the file the tensors come from."""
        return {}

    def gather(self, names: Sequence[str], out: Array) -> None:
        """The bytes of whole tensors of one size, each a row of ``out`` (uint8): small ones, read together."""
        for name, row in zip(names, out, strict=True):
            info = self[name]
            self.read(name, out=row.view(info.dtype.storage).reshape(info.rows, info.width))

    def __getitem__(self, name: str) -> TensorInfo:
        try:
            return self.infos[name]
        except KeyError:
            raise NotFoundError(f"{self}: no tensor named {name!r}") from None

    def __contains__(self, name: object) -> bool:
        return name in self.infos

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors as stored."""
        return sum(info.nbytes for info in self.infos.values())

    def array(self, name: str) -> Floats:
        """A whole tensor as float32 (float64 stays), in its own shape: for the small ones."""
        info = self[name]
        return widen(self.read(name), info.dtype).reshape(info.shape)

    def span(self, name: str, start: int, stop: int | None) -> tuple[TensorInfo, int, int]:
        """The tensor and a checked row range: what every ``read`` begins with."""
        info = self[name]
        stop = info.rows if stop is None else stop
        if not 0 <= start <= stop <= info.rows:
            raise MismatchError(f"{self}: rows {start}:{stop} of {name!r}, which has {info.rows}")
        return info, start, stop


@dataclass(frozen=True, eq=False)
class MemoryStore(Store):
    """Tensors held in memory, each in its storage type: for small ones, and for tests."""

    tensors: Mapping[str, tuple[DType, Array]]
    meta: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def infos(self) -> Mapping[str, TensorInfo]:
        return {name: TensorInfo(name, kind, raw.shape) for name, (kind, raw) in self.tensors.items()}

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.meta

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Array | None = None) -> Array:
        info, start, stop = self.span(name, start, stop)
        return into(out, self.tensors[name][1].reshape(info.rows, info.columns)[start:stop])


def same_bytes(one: Store, key: str, other: Store, other_key: str) -> bool:
    """Whether two tensors are of one type and shape, and byte for byte equal; a few MB are held at a time."""
    first, second = one[key], other[other_key]
    return (first.shape, first.dtype) == (second.shape, second.dtype) and all(
        np.array_equal(bytes_of(one.read(key, start, stop)), bytes_of(other.read(other_key, start, stop)))
        for start, stop in one.spans(key, 4 << 20)
    )


def into(out: Array | None, rows: Array) -> Array:
    """``rows``, copied into ``out`` where the caller gave one."""
    if out is None:
        return rows
    np.copyto(out, rows)
    return out
