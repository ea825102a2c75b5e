"""WriteJob: some outputs, written piece by piece on a few threads, resumable, and published in one step.

What is common to merging and converting: check, lock, journal, write, finish, publish. A subclass says what the
outputs are, what makes two runs the same, and what lies beside the weights.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from adaptool.errors import AdaptoolError, DiskError
from adaptool.jobs import run
from adaptool.tensors.compute import single_threaded_blas
from adaptool.tensors.store import Store
from adaptool.tensors.writer import Piece, PieceWriter, Plan, pieces_of
from adaptool.versions import listed_only
from adaptool.writing.journal import JOURNAL_NAME, Journal
from adaptool.writing.publish import (
    LOCK_NAME,
    Ours,
    check_file_target,
    check_inputs,
    check_target,
    locked,
    partial_path,
    repair,
    require_space,
)

SCRATCH = (JOURNAL_NAME, LOCK_NAME)
"""Files of a folder being prepared that are no part of the result; the mark that it is adaptool's goes last."""

SLACK_BYTES = 1 << 20
"""Room asked for besides the weights: configs, the card, the manifest."""


@dataclass(frozen=True, eq=False)
class Output:
    """A store and the files it is written into, computed about ``piece_nbytes`` at a time."""

    store: Store
    plans: tuple[Plan, ...]
    piece_nbytes: int | None = None
    mark: str = ""
    """What decides the bytes besides the inputs and the headers."""

    @cached_property
    def pieces(self) -> Sequence[Piece]:
        """All the work, in file order."""
        return list(pieces_of(self.store, self.plans, self.piece_nbytes))

    @property
    def nbytes(self) -> int:
        """Bytes of the files."""
        return sum(plan.size for plan in self.plans)

    @property
    def facts(self) -> Sequence[bytes]:
        """What tells it from an output of the same inputs."""
        return [self.mark.encode(), *(plan.header for plan in self.plans)]


Task = tuple[Output, Piece]
Unit = tuple[Task, ...]
"""What one thread does without a break: the same rows for each of several outputs, so that they are read once."""


def units_of(outputs: Sequence[Output]) -> Iterator[Unit]:
    """The work of outputs made of the same rows: computed pieces together, copies alone."""
    if len(outputs) == 1:
        yield from (((outputs[0], piece),) for piece in outputs[0].pieces)
        return
    together: dict[tuple[str, int, int], list[Task]] = {}
    for output in outputs:
        for piece in output.pieces:
            if piece.copied_from is not None:
                yield ((output, piece),)
            else:
                together.setdefault((piece.tensor, piece.start, piece.stop), []).append((output, piece))
    yield from map(tuple, together.values())


class WriteJob(ABC):
    """Iterate it to run it (each step yields the bytes done), then read its report."""

    ours: Ours = staticmethod(listed_only)
    """Whether what lies at OUT is adaptool's, and so may be replaced."""

    single = False
    """Whether OUT is one file, and not a folder."""

    def __init__(self, out: Path, *, workers: int, resume: bool, overwrite: bool) -> None:
        self.out, self.workers, self.resume, self.overwrite = out, workers, resume, overwrite
        self.remarks: list[str] = []
        """What concerns this run alone, and not the result."""

    @property
    @abstractmethod
    def phases(self) -> Sequence[Sequence[Output]]:
        """What is written: each phase may read what the ones before it wrote."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """What is being made: two runs with the same identity write the same bytes, piece by piece."""

    @property
    @abstractmethod
    def inputs(self) -> Iterable[Path]:
        """What is read, and so must not be written over."""

    @property
    def side_nbytes(self) -> int:
        """Bytes of the files copied beside the weights."""
        return 0

    @abstractmethod
    def finish(self, folder: Path, resumed: int) -> None:
        """Once every piece is written: the files beside the weights, the checks, the manifest, the publication."""

    def wrote(self, output: Output, piece: Piece, writer: PieceWriter) -> None:  # noqa: B027 (most have no need of it)
        """Called after each piece, on the thread that wrote it, before it is recorded as done."""

    def written(self) -> None:  # noqa: B027
        """Called when all pieces are written, before they are flushed."""

    @property
    def outputs(self) -> list[Output]:
        """Those of all phases."""
        return [output for phase in self.phases for output in phase]

    @property
    def nbytes(self) -> int:
        """Bytes of the weights to be written."""
        return sum(output.nbytes for output in self.outputs)

    @property
    def partial(self) -> Path:
        """Where the output is prepared."""
        return partial_path(self.out)

    @cached_property
    def _units(self) -> list[list[Unit]]:
        return [list(units_of(phase)) for phase in self.phases]

    def check(self, *, dry: bool = False) -> None:
        """Everything that can be refused before a byte is written; ``dry`` repairs nothing on the way."""
        check_inputs(self.out, self.inputs)
        if not dry and not self.single:
            repair(self.out, self.ours)
        (check_file_target if self.single else check_target)(self.out, overwrite=self.overwrite, ours=self.ours)
        partial = self.partial
        held = sum(path.stat().st_blocks * 512 for path in partial.glob("*")) if partial.is_dir() else 0
        require_space(self.out, self.nbytes + self.side_nbytes + SLACK_BYTES - held)

    def __iter__(self) -> Iterator[int]:
        self.check()
        with locked(self.partial), single_threaded_blas():
            try:
                yield from self._run(self.partial)
            except DiskError:
                raise
            except AdaptoolError as error:
                left = f"nothing was published, and what was written is in {self.partial}"
                hint = f"{error.hint}; {left}" if error.hint else left
                raise type(error)(error.message, hint=hint) from error
            except OSError as error:
                where = error.filename or self.partial
                raise DiskError(f"{where}: {error.strerror}", hint="make room, then run again with --resume") from error

    def _run(self, partial: Path) -> Iterator[int]:
        journal = self._open_journal(partial)
        done = journal.done or set()
        writers: dict[Output, PieceWriter] = {}
        try:
            for output in self.outputs:
                writers[output] = PieceWriter(output.store, partial, output.plans)
            first = 0
            for units in self._units:
                numbers = range(first, first + len(units))
                first += len(units)
                yield sum(_nbytes(units[n - numbers.start]) for n in numbers if n in done)
                todo = ((n, units[n - numbers.start]) for n in numbers if n not in done)
                yield from run(lambda one: self._write(*one, writers, journal), todo, self.workers)
            self.written()
            for writer in writers.values():
                writer.sync()
        finally:
            for writer in writers.values():
                writer.close()
            journal.close()
        self.finish(partial, len(done))

    def _write(self, number: int, unit: Unit, writers: dict[Output, PieceWriter], journal: Journal) -> int:
        for output, piece in unit:
            writer = writers[output]
            writer.write(piece)
            self.wrote(output, piece, writer)
        journal.record(number)
        return _nbytes(unit)

    def _open_journal(self, partial: Path) -> Journal:
        """The journal of this very work; anything an earlier, different one left in ``partial`` is removed."""
        sizes = {path.name: path.stat().st_size for path in partial.iterdir() if path.is_file()}
        plans = [plan for output in self.outputs for plan in output.plans]
        intact = all(sizes.get(plan.name) == plan.size for plan in plans)
        count = sum(map(len, self._units))
        journal = Journal(partial, self.identity, resume=self.resume and intact, pieces=count)
        if journal.done is None:
            for path in partial.iterdir():
                if path.name not in SCRATCH:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            if self.resume:
                self.remarks.append("nothing to resume: there was no unfinished work on these same inputs")
        return journal


def _nbytes(unit: Unit) -> int:
    return sum(piece.nbytes for _, piece in unit)
