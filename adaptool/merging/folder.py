"""Merging into a model folder: streamed, checked, resumable, published whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from adaptool.adapters.adapter import Adapter
from adaptool.errors import DiskError, MismatchError, ParityError
from adaptool.jobs import run
from adaptool.merging.journal import JOURNAL_NAME, Journal
from adaptool.merging.merged import Merged, output_prefix
from adaptool.merging.model_files import card, licence_of, merged_config, side_files
from adaptool.merging.options import MergeEstimate, MergeOptions, MergeReport
from adaptool.merging.provenance import hub_id, merge_identity, merge_manifest
from adaptool.merging.publish import (
    LOCK_NAME,
    check_inputs,
    check_target,
    locked,
    partial_path,
    publish,
    repair,
    require_space,
)
from adaptool.merging.sampling import SampleCheck
from adaptool.tensors.compute import single_threaded_blas
from adaptool.tensors.dtypes import DType, most_common
from adaptool.tensors.safetensors import INDEX_NAME, shard_of
from adaptool.tensors.store import Store
from adaptool.tensors.views import Cast, Selected
from adaptool.tensors.writer import (
    PIECE_BYTES,
    Piece,
    PieceWriter,
    index_json,
    pieces_of,
    plan_files,
    shard_groups,
    shard_names,
)
from adaptool.versions import MANIFEST_NAME, listed_only, manifest_text

DEFAULT_SHARD = 5_000_000_000
"""Bytes of a weights file, where the base gives no sharding to keep."""

SCRATCH = (JOURNAL_NAME, LOCK_NAME)
"""Files of a folder being prepared that are no part of the result; the mark that it is adaptool's goes last."""


class MergeJob:
    """One merge into one folder. Iterate it to run it (each step yields the bytes done), then read ``report``."""

    def __init__(
        self,
        merged: Merged,
        adapters: Sequence[tuple[Adapter, float]],
        out: Path,
        options: MergeOptions,
        notes: Sequence[str] = (),
    ) -> None:
        self.merged, self.adapters, self.out, self.options = merged, tuple(adapters), out, options
        base = merged.plan.base
        prefix = output_prefix(merged.plan)
        self.names = {prefix + name if name in base.store else name: name for name in merged}
        """Output tensor → its name in ``merged``."""
        output: Store = Selected(merged, self.names) if prefix else merged
        self.output: Store = Cast(output, options.dtype) if options.dtype is not None else output
        self.files = plan_files(self.output, self._groups())
        folder = self.adapters[-1][0].folder
        self.sides, side_notes = side_files(base, folder, remote_code=options.remote_code)
        self.notes = [*notes, *merged.plan.notes, *side_notes]
        self.remarks: list[str] = []
        """What concerns this run alone, and not the result."""
        self._report: MergeReport | None = None

    @property
    def report(self) -> MergeReport:
        """What was done, once the job has run to its end."""
        assert self._report is not None, "the job has not run to its end"
        return self._report

    @property
    def nbytes(self) -> int:
        """Bytes of the weights to be written."""
        return sum(plan.size for plan in self.files)

    @property
    def partial(self) -> Path:
        """Where the output is prepared."""
        return partial_path(self.out)

    @cached_property
    def pieces(self) -> Sequence[Piece]:
        """All the work, in file order."""
        return list(pieces_of(self.output, self.files))

    @cached_property
    def identity(self) -> str:
        """What is being made: two runs with the same identity write the same bytes, piece by piece."""
        return merge_identity(self.merged, self.adapters, [plan.header for plan in self.files])

    @property
    def estimate(self) -> MergeEstimate:
        """What running the job would do."""
        plan = self.merged.plan
        largest = max((piece.nbytes for piece in self.pieces if piece.copied_from is None), default=0)
        return MergeEstimate(
            self.out,
            len(self.output),
            len(self.merged.changed),
            self.nbytes,
            self._copied_nbytes,
            self.options.workers * (largest + PIECE_BYTES),
            self.options.workers,
            tuple(file.name for file in self.files) + tuple(side.name for side in self.sides),
            tuple((new, plan.describe(old)) for new, old in self.names.items() if old in self.merged.changed),
        )

    @property
    def _copied_nbytes(self) -> int:
        return sum(piece.nbytes for piece in self.pieces if piece.copied_from is not None)

    def check(self, *, dry: bool = False) -> None:
        """Everything that can be refused before a byte is written; ``dry`` repairs nothing on the way."""
        base, partial = self.merged.plan.base, self.partial
        inputs = [base.path, *(adapter.path for adapter, _ in self.adapters)]
        check_inputs(self.out, inputs)
        if not dry:
            repair(self.out, listed_only)
        check_target(self.out, overwrite=self.options.overwrite, ours=listed_only)
        held = sum(path.stat().st_blocks * 512 for path in partial.glob("*")) if partial.is_dir() else 0
        sides = sum(side.source.stat().st_size for side in self.sides)
        require_space(self.out, self.nbytes + sides + (1 << 20) - held)

    def __iter__(self) -> Iterator[int]:
        self.check()
        with locked(self.partial), single_threaded_blas():
            try:
                yield from self._run(self.partial)
            except ParityError as error:
                hint = f"{error.hint}; nothing was published, and what was written is in {self.partial}"
                raise ParityError(error.message, hint=hint) from error
            except OSError as error:
                where = error.filename or self.partial
                raise DiskError(f"{where}: {error.strerror}", hint="make room, then run again with --resume") from error

    def _run(self, partial: Path) -> Iterator[int]:
        journal = self._open_journal(partial)
        writer = PieceWriter(self.output, partial, self.files)
        sample = SampleCheck(self.merged, self.output, writer)
        done = journal.done or set()
        try:
            yield sum(self.pieces[number].nbytes for number in done)
            todo = [number for number in range(len(self.pieces)) if number not in done]
            for number in run(lambda n: self._write(n, writer, sample, journal), todo, self.options.workers):
                yield self.pieces[number].nbytes
            self._refuse_unchanged(sample)
            writer.sync()
        finally:
            writer.close()
            journal.close()
        # an earlier run sampled a piece before it recorded it, so all of them have been
        sampled = sum(sample.applies(self.names[piece.tensor]) for piece in self.pieces if piece.copied_from is None)
        self._finish(partial, sampled, len(done))

    def _write(self, number: int, writer: PieceWriter, sample: SampleCheck, journal: Journal) -> int:
        piece = self.pieces[number]
        writer.write(piece)
        sample(piece, self.names[piece.tensor])
        journal.record(number)
        return number

    def _groups(self) -> list[tuple[str, list[str]]]:
        """Which tensors go into which file: as the base has them, unless a size is given or it has none to keep."""
        base, limit = self.merged.plan.base, self.options.shard_size
        homes = {new: shard_of(base.store, old) for new, old in self.names.items() if old in base.store}
        if limit is not None or None in homes.values():
            return shard_groups(self.output, limit or DEFAULT_SHARD)
        by_file: dict[str, list[str]] = {home: [] for home in sorted(filter(None, homes.values()))}
        for name in self.output:
            by_file[homes.get(name) or list(by_file)[-1]].append(name)
        return list(zip(shard_names(len(by_file)), by_file.values(), strict=True))

    def _open_journal(self, partial: Path) -> Journal:
        """The journal of this very merge; anything an earlier, different one left in ``partial`` is removed."""
        sizes = {path.name: path.stat().st_size for path in partial.iterdir() if path.is_file()}
        intact = all(sizes.get(file.name) == file.size for file in self.files)
        journal = Journal(partial, self.identity, resume=self.options.resume and intact, pieces=len(self.pieces))
        if journal.done is None:
            for path in partial.iterdir():
                if path.name not in SCRATCH:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            if self.options.resume:
                self.remarks.append("nothing to resume: there was no unfinished merge of these same inputs")
        return journal

    def _refuse_unchanged(self, sample: SampleCheck) -> None:
        """A merge whose every update is rounded away is a silent no-op: say so instead of publishing it."""
        plan = self.merged.plan
        if sample.seen.changed or plan.replaced or plan.added:
            return
        for name in plan.patches:
            for start, stop in self.merged.spans(name, PIECE_BYTES):
                if (self.merged.read(name, start, stop) != self.merged.unmerged(name, start, stop)).any():
                    return
        raise MismatchError(
            "the merge changes nothing: every update is smaller than half a step of the base's type",
            hint="the adapter's updates, or its weight, are too small to be held in this base's type",
        )

    def _finish(self, partial: Path, sampled: int, resumed: int) -> None:
        """The files beside the weights, the checks, the manifest last, then the rename."""
        self._write_sides(partial)
        findings = dict(check(self, partial) for check in self.options.checks)
        present = sorted(path for path in partial.rglob("*") if path.is_file() and path.name not in SCRATCH)
        files = [(str(path.relative_to(partial)), path.stat().st_size) for path in present]
        manifest = merge_manifest(
            self.merged,
            self.adapters,
            files,
            dtype=self.main_dtype,
            sampled=sampled,
            digest_base=self.options.digest_base,
            notes=self.notes,
        )
        (partial / MANIFEST_NAME).write_text(manifest_text(manifest), encoding="utf-8", errors="replace")
        publish(partial, self.out, SCRATCH)
        self._report = MergeReport(
            self.out,
            len(self.output),
            len(self.merged.changed),
            self.nbytes,
            self._copied_nbytes,
            sampled,
            resumed,
            tuple(name for name, _ in files),
            (*self.notes, *self.remarks),
            findings,
        )

    @cached_property
    def main_dtype(self) -> DType:
        """The type most of the output is in: what config.json says."""
        return most_common((info.dtype, info.size) for info in self.output.infos.values())

    def _write_sides(self, partial: Path) -> None:
        plan = self.merged.plan
        for side in self.sides:
            target = partial / side.name
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(side.source, target)
        if len(self.files) > 1:
            (partial / INDEX_NAME).write_text(index_json(self.files), encoding="utf-8", errors="replace")
        task = next((a.config.task_type for a, _ in reversed(self.adapters) if a.config.task_type), None)
        config = merged_config(plan, self.main_dtype.torch_name, task, remote_code=self.options.remote_code)
        if config is not None:
            _write_json(partial / "config.json", config)
        bases = sorted({name for a, _ in self.adapters if (name := hub_id(a.config.base_model))})
        made_of = [a.name if weight == 1 else f"{a.name} (weight {weight:g})" for a, weight in self.adapters]
        text = card(bases, made_of, licence_of(plan.base.folder), transformers=config is not None)
        (partial / "README.md").write_text(text, encoding="utf-8", errors="replace")


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", errors="replace")
