"""FileStore: what the stores of one file have in common, whatever its format."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from adaptool.tensors.files import FileHandle, open_file
from adaptool.tensors.store import Store, TensorInfo


class FileStore(Store):
    """The tensors of one file, which is opened when the first is read, and again where the store was sent."""

    path: Path
    tensors: Mapping[str, TensorInfo]

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        return self.tensors

    @cached_property
    def _file(self) -> FileHandle:
        return open_file(self.path)

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_file"}

    @property
    def files(self) -> frozenset[Path]:
        return frozenset({self.path})

    def __str__(self) -> str:
        return str(self.path)
