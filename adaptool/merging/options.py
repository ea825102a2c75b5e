"""What a merge is asked for, what it would do, and what it did."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from adaptool.jobs import default_workers
from adaptool.tensors.dtypes import DType
from adaptool.tensors.store import Store
from adaptool.writing.job import Output

if TYPE_CHECKING:
    from adaptool.merging.folder import MergeJob

Check = Callable[["MergeJob", Path], tuple[str, Any]]
"""Looks at the finished folder before it is published; gives its name and finding, or raises ParityError."""


class Export(Protocol):
    """Other files made of the merged model in the same run: GGUFs. The room that knows how is above this one."""

    @property
    def outputs(self) -> Sequence[Output]:
        """What is written after the merged model."""

    @property
    def notes(self) -> Sequence[str]:
        """What the user should know."""

    @property
    def summaries(self) -> Sequence[Any]:
        """What each file holds, for the report."""

    @property
    def records(self) -> Sequence[Mapping[str, Any]]:
        """What the manifest says of each file."""

    def finish(self, partial: Path) -> None:
        """Check the written files, and write what lies beside them."""


Exporting = Callable[["MergeJob", Store], Export]
"""Plans an export of a merge from the store that holds the merged model."""


@dataclass(frozen=True)
class MergeOptions:
    """How a merge is written. Nothing here changes a byte of the weights but ``dtype``."""

    dtype: DType | None = None
    shard_size: int | None = None
    """Bytes per file; None keeps the base's files."""
    workers: int = field(default_factory=default_workers)
    resume: bool = False
    overwrite: bool = False
    remote_code: bool = False
    digest_base: bool = False
    checks: tuple[Check, ...] = ()
    safetensors: bool = True
    """Whether the merged model itself is written, or only what is exported from it."""
    exports: tuple[Exporting, ...] = ()


@dataclass(frozen=True)
class MergeEstimate:
    """What a merge would do."""

    out: Path
    tensors: int
    changed: int
    nbytes: int
    copied_nbytes: int
    memory_nbytes: int
    """Buffers of all workers; the interpreter and NumPy take some 50 MB besides."""
    workers: int
    files: tuple[str, ...]
    changes: tuple[tuple[str, str], ...]
    """(tensor, what happens to it)."""
    exports: tuple[Any, ...] = ()
    """What each GGUF would hold."""


@dataclass(frozen=True)
class MergeReport:
    """What a finished merge did."""

    out: Path
    tensors: int
    changed: int
    nbytes: int
    copied_nbytes: int
    sampled_rows: int
    resumed_pieces: int
    files: tuple[str, ...]
    notes: tuple[str, ...]
    checks: Mapping[str, Any]
    """What each check that was asked for found: ``verify``, ``forward``."""
    exports: tuple[Any, ...] = ()
    """What each GGUF holds."""
