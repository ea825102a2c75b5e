"""Views: stores over other stores, which rename, choose, convert and join without reading anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from adaptool.errors import MismatchError, NotFoundError
from adaptool.tensors.dtypes import Array, DType, narrow, widen
from adaptool.tensors.store import Extent, Store, TensorInfo, into


class View(Store):
    """A Store over another: passes through whatever a subclass does not change."""

    source: Store

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        return self.source.infos

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.source.metadata

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Array | None = None) -> Array:
        return self.source.read(name, start, stop, out)

    def extent(self, name: str) -> Extent | None:
        return self.source.extent(name)

    @property
    def files(self) -> frozenset[Path]:
        return self.source.files

    @property
    def transforms(self) -> bool:
        return self.source.transforms

    def spans(self, name: str, nbytes: int) -> Iterator[tuple[int, int]]:
        return self.source.spans(name, nbytes)

    def __str__(self) -> str:
        return str(self.source)


@dataclass(frozen=True, eq=False)
class Selected(View):
    """The tensors of ``source`` listed in ``names`` (new name → its name there), in that order."""

    source: Store
    names: Mapping[str, str]

    @cached_property
    def infos(self) -> Mapping[str, TensorInfo]:
        return {new: replace(self.source[old], name=new) for new, old in self.names.items()}

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Array | None = None) -> Array:
        return self.source.read(self._old(name), start, stop, out)

    def extent(self, name: str) -> Extent | None:
        return self.source.extent(self._old(name))

    def spans(self, name: str, nbytes: int) -> Iterator[tuple[int, int]]:
        return self.source.spans(self._old(name), nbytes)

    def _old(self, name: str) -> str:
        return self.names[self[name].name]


@dataclass(frozen=True, eq=False)
class Cast(View):
    """``source`` with its float tensors rounded to one type; integer, boolean and packed tensors pass unchanged."""

    source: Store
    target: DType

    @cached_property
    def infos(self) -> Mapping[str, TensorInfo]:
        return {name: self._cast(info) for name, info in self.source.infos.items()}

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Array | None = None) -> Array:
        info = self.source[name]
        if self._cast(info) is info:
            return self.source.read(name, start, stop, out)
        return into(out, narrow(widen(self.source.read(name, start, stop), info.dtype), self.target))

    def extent(self, name: str) -> Extent | None:
        info = self.source[name]
        return self.source.extent(name) if self._cast(info) is info else None

    def _cast(self, info: TensorInfo) -> TensorInfo:
        if not info.dtype.mergeable or info.dtype == self.target:
            return info
        return replace(info, dtype=self.target)


@dataclass(frozen=True, eq=False)
class Joined(Store):
    """Several stores as one; a name two of them hold is an error."""

    parts: tuple[Store, ...]
    label: str = "joined"

    def __post_init__(self) -> None:
        if len(self._owners) != sum(len(part) for part in self.parts):
            counts = Counter(name for part in self.parts for name in part)
            twice = counts.most_common(1)[0][0]
            raise MismatchError(f"{self.label}: the tensor {twice!r} is in more than one file")

    @cached_property
    def _owners(self) -> dict[str, Store]:
        return {name: part for part in self.parts for name in part}

    @cached_property
    def infos(self) -> Mapping[str, TensorInfo]:
        return {name: info for part in self.parts for name, info in part.infos.items()}

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Array | None = None) -> Array:
        return self._owner(name).read(name, start, stop, out)

    @property
    def files(self) -> frozenset[Path]:
        return frozenset().union(*(part.files for part in self.parts))

    def extent(self, name: str) -> Extent | None:
        return self._owner(name).extent(name)

    def spans(self, name: str, nbytes: int) -> Iterator[tuple[int, int]]:
        return self._owner(name).spans(name, nbytes)

    def _owner(self, name: str) -> Store:
        try:
            return self._owners[name]
        except KeyError:
            raise NotFoundError(f"{self.label}: no tensor named {name!r}") from None

    def __str__(self) -> str:
        return self.label


def select(source: Store, keep: Callable[[str], bool] | Iterable[str]) -> Selected:
    """The tensors of ``source`` that ``keep`` accepts (a predicate, or their names)."""
    names = [name for name in source if keep(name)] if callable(keep) else list(keep)
    return Selected(source, {name: name for name in names})
