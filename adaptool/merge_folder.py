"""Merging into a model folder: streamed, checked, resumable, published whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from adaptool import __version__
from adaptool.adapters.adapter import Adapter
from adaptool.errors import DiskError, MismatchError, UsageError
from adaptool.jobs import default_workers, run
from adaptool.journal import JOURNAL_NAME, Journal
from adaptool.merge import Merged, output_prefix
from adaptool.model_folder import SideFile, card, licence_of, merged_config, side_files
from adaptool.origin import base_name, hub_id
from adaptool.publish import LOCK_NAME, check_target, locked, partial_path, publish, require_space
from adaptool.sampling import SampleCheck
from adaptool.tensors.compute import single_threaded_blas
from adaptool.tensors.dtypes import DType
from adaptool.tensors.safetensors import shard_of
from adaptool.tensors.store import Cast, Selected, Store
from adaptool.tensors.writer import (
    FilePlan,
    Piece,
    PieceWriter,
    index_json,
    pieces_of,
    plan_files,
    shard_groups,
    shard_names,
)
from adaptool.versions import (
    MANIFEST_NAME,
    MANIFEST_SCHEMA,
    FileRecord,
    adapter_digest,
    base_files,
    canonical_config,
    canonical_json,
    content_digest,
    file_record,
    header_digest,
    listed_only,
    manifest_text,
)

INDEX_NAME = "model.safetensors.index.json"
DTYPE_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
DEFAULT_SHARD = 5_000_000_000
"""Bytes, where the base gives no sharding to keep."""


@dataclass(frozen=True)
class MergeOptions:
    """How a merge is written. Nothing here changes a byte of the result but ``dtype`` and ``shard_size``."""

    dtype: DType | None = None
    shard_size: int | None = None
    """Bytes per file; None keeps the base's files."""
    workers: int = field(default_factory=default_workers)
    resume: bool = False
    overwrite: bool = False
    remote_code: bool = False
    digest_base: bool = False
    command: str = "adaptool merge"
    """What the card says made it."""


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


class MergeJob:
    """One merge into one folder. Iterate it to run it (each step yields the bytes done), then read ``report``."""

    def __init__(
        self, merged: Merged, adapters: Sequence[tuple[Adapter, float]], out: Path, options: MergeOptions
    ) -> None:
        self.merged, self.adapters, self.out, self.options = merged, tuple(adapters), out, options
        base = merged.plan.base
        self.prefix = output_prefix(merged.plan)
        self.names = {self.prefix + name if name in base.store else name: name for name in merged}
        output: Store = Selected(merged, self.names) if self.prefix else merged
        self.output: Store = Cast(output, options.dtype) if options.dtype is not None else output
        self.files = plan_files(self.output, self._groups())
        self.sides, notes = side_files(
            base,
            adapters[-1][0].path.parent if adapters[-1][0].path.is_file() else adapters[-1][0].path,
            remote_code=options.remote_code,
        )
        self.notes = [*merged.plan.notes, *notes]
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

    @cached_property
    def pieces(self) -> Sequence[Piece]:
        """All the work, in file order."""
        return list(pieces_of(self.output, self.files))

    def check(self) -> None:
        """Everything that can be refused before a byte is written."""
        base = self.merged.plan.base
        inputs = [base.path, *(adapter.path for adapter, _ in self.adapters)]
        check_target(self.out, inputs, overwrite=self.options.overwrite, ours=listed_only)
        partial = partial_path(self.out)
        held = sum(path.stat().st_blocks * 512 for path in partial.glob("*")) if partial.is_dir() else 0
        require_space(self.out, self.nbytes + sum(side.source.stat().st_size for side in self.sides) + (1 << 20) - held)

    def __iter__(self) -> Iterator[int]:
        self.check()
        partial = partial_path(self.out)
        with locked(partial), single_threaded_blas():
            journal = self._open(partial)
            writer = PieceWriter(self.output, partial, self.files)
            sample = SampleCheck(self.merged, self.output, writer)
            done = journal.done or set()
            written = 0
            try:
                yield sum(self.pieces[number].nbytes for number in done)
                todo = [number for number in range(len(self.pieces)) if number not in done]
                for number in run(lambda n: self._write(n, writer, sample, journal), todo, self.options.workers):
                    written += self.pieces[number].nbytes
                    yield self.pieces[number].nbytes
                self._refuse_unchanged(sample, resumed=bool(done), partial=partial)
                writer.sync()
            finally:
                writer.close()
                journal.close()
            self._finish(partial, sample, len(done))

    def _write(self, number: int, writer: PieceWriter, sample: SampleCheck, journal: Journal) -> int:
        piece = self.pieces[number]
        writer.write(piece, lambda p, _: sample(p, self.names[p.tensor]))
        journal.record(number)
        return number

    def _groups(self) -> list[tuple[str, list[str]]]:
        """Which tensors go into which file: as the base has them, unless a size is given or it has none to keep."""
        base, limit = self.merged.plan.base, self.options.shard_size
        homes = {new: shard_of(base.store, old) for new, old in self.names.items() if old in base.store}
        if limit is not None or None in homes.values():
            return shard_groups(self.output, limit or DEFAULT_SHARD)
        by_file: dict[str, list[str]] = {home: [] for home in sorted(set(homes.values()))}  # type: ignore[type-var]
        for name in self.output:
            by_file[homes.get(name) or list(by_file)[-1]].append(name)
        return list(zip(shard_names(len(by_file)), by_file.values(), strict=True))

    def _open(self, partial: Path) -> Journal:
        """The journal of this very merge; anything an earlier, different one left in ``partial`` is removed."""
        journal = Journal(partial, self.identity, resume=self.options.resume)
        if journal.done is None:
            for path in partial.iterdir():
                if path.name not in (JOURNAL_NAME, LOCK_NAME):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            if self.options.resume:
                self.notes.append("nothing to resume: there was no unfinished merge of these same inputs")
        return journal

    @cached_property
    def identity(self) -> str:
        """What is being made: two runs with the same identity write the same bytes, piece by piece."""
        base = self.merged.plan.base
        paths = {extent.path for name in base.store if (extent := base.store.extent(name))}
        inputs = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(paths)]
        recipe = [
            [canonical_config(a.config).decode(), header_digest(a.store), w, _mtimes(a)] for a, w in self.adapters
        ]
        headers = [plan.header.decode("latin-1") for plan in self.files]
        facts = [__version__, inputs, header_digest(base.store), recipe, self.merged.safe, headers]
        return hashlib.sha256(canonical_json(facts)).hexdigest()

    def _refuse_unchanged(self, sample: SampleCheck, *, resumed: bool, partial: Path) -> None:
        """A merge whose every update is rounded away is a silent no-op: say so instead of publishing it."""
        plan = self.merged.plan
        if sample.seen.changed or not sample.seen.rows or resumed or plan.replaced or plan.added:
            return
        for name in plan.patches:
            for start, stop in self.merged.spans(name, 8 << 20):
                if (self.merged.read(name, start, stop) != self.merged.unmerged(name, start, stop)).any():
                    return
        raise MismatchError(
            f"the merge changes nothing: every update is smaller than half a step of the base's type (kept in {partial})",
            hint="try --dtype float32, or a larger weight: --dtype keeps small updates only if the base has them",
        )

    def _finish(self, partial: Path, sample: SampleCheck, resumed: int) -> None:
        """The files beside the weights, the manifest last, then the rename."""
        try:
            self._write_sides(partial)
            (partial / JOURNAL_NAME).unlink()
            manifest = self.manifest(partial, sample.seen.rows)
            (partial / MANIFEST_NAME).write_text(manifest_text(manifest), encoding="utf-8")
        except OSError as error:
            raise DiskError(f"{partial}: {error.strerror}", hint="make room, then run again with --resume") from error
        publish(partial, self.out)
        copied = sum(piece.nbytes for piece in self.pieces if piece.copied_from is not None)
        self._report = MergeReport(
            self.out, len(self.output), len(self.merged.changed), self.nbytes, copied, sample.seen.rows, resumed,
            tuple(record["name"] for record in manifest["files"]), tuple(self.notes),
        )  # fmt: skip

    def _write_sides(self, partial: Path) -> None:
        plan = self.merged.plan
        for side in self.sides:
            target = partial / side.name
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(side.source, target)
        if len(self.files) > 1:
            (partial / INDEX_NAME).write_text(index_json(self.files), encoding="utf-8")
        task = next((a.config.task_type for a, _ in reversed(self.adapters) if a.config.task_type), None)
        config = merged_config(plan, self._dtype_name(), task, remote_code=self.options.remote_code)
        if config is not None:
            import json

            (partial / "config.json").write_text(
                json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            )
        bases = sorted({name for a, _ in self.adapters if (name := hub_id(a.config.base_model))})
        made_of = [f"{a.name}" if w == 1 else f"{a.name} (weight {w:g})" for a, w in self.adapters]
        text = card(bases, made_of, licence_of(plan.base.folder), self.options.command)
        (partial / "README.md").write_text(text, encoding="utf-8")

    def _dtype_name(self) -> str:
        sizes: dict[str, int] = {}
        for info in self.output.infos.values():
            if info.dtype.name in DTYPE_NAMES:
                sizes[info.dtype.name] = sizes.get(info.dtype.name, 0) + info.size
        return DTYPE_NAMES[max(sizes, key=lambda name: sizes[name])] if sizes else "float32"

    def manifest(self, folder: Path, sampled: int) -> Mapping[str, Any]:
        """What was made of what: canonical, without paths or times, so that equal merges have equal manifests."""
        base = self.merged.plan.base
        weights = {extent.path for name in base.store if (extent := base.store.extent(name))}
        described: dict[str, Any] = {
            "name": base_name(base),
            "header_digest": header_digest(base.store),
            "files": [record.to_dict() for record in base_files(weights)],
        }
        revision = next((a.config.revision for a, _ in self.adapters if a.config.revision), None) or _revision(
            base.path
        )
        if revision:
            described["revision"] = revision
        if self.options.digest_base:
            described["digest"] = content_digest(base.store)
        present = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != LOCK_NAME)
        return {
            "schema": MANIFEST_SCHEMA,
            "kind": "merged",
            "adaptool": __version__,
            "base": described,
            "adapters": [_adapter_record(adapter, weight) for adapter, weight in self.adapters],
            "recipe": {
                "rounding": "safe" if self.merged.safe else "once",
                "dtype": self._dtype_name(),
                "unties_head": self.merged.plan.unties,
                "resizes_vocabulary": _resized(self.merged),
            },
            "checked": {"sampled_rows": sampled},
            "files": [{"name": str(path.relative_to(folder)), "size": path.stat().st_size} for path in present],
            "notes": self.notes,
        }


def _resized(merged: Merged) -> int | None:
    name = merged.plan.base.embedding
    if name is None or merged[name].shape == merged.plan.base.store[name].shape:
        return None
    return merged[name].shape[0]


def _adapter_record(adapter: Adapter, weight: float) -> dict[str, Any]:
    folder = adapter.path.parent if adapter.path.is_file() else adapter.path
    paths = {extent.path for name in adapter.store if (extent := adapter.store.extent(name))} | {
        folder / "adapter_config.json"
    }
    records: list[FileRecord] = [file_record(path, hashed=True) for path in sorted(paths)]
    return {
        "name": adapter.name,
        "weight": weight,
        "peft_type": adapter.config.peft_type,
        "base_model": hub_id(adapter.config.base_model),
        "digest": adapter_digest(adapter),
        "files": [record.to_dict() for record in records],
    }


def _mtimes(adapter: Adapter) -> list[int]:
    paths = {extent.path for name in adapter.store if (extent := adapter.store.extent(name))}
    return [path.stat().st_mtime_ns for path in sorted(paths)]


def _revision(path: Path) -> str | None:
    """The commit of an HF-cache snapshot: the folder's own name."""
    return path.name if path.parent.name == "snapshots" and len(path.name) == 40 else None


def parse_size(text: str) -> int:
    """``5GB``, ``500MB``, ``1048576`` as bytes; decimal units, as transformers reads them."""
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "B": 1}
    upper = text.strip().upper()
    unit = next((name for name in sorted(units, key=len, reverse=True) if upper.endswith(name)), "")
    try:
        size = float(upper.removesuffix(unit)) * units.get(unit, 1)
    except ValueError:
        raise UsageError(f"{text!r} is not a size", hint="write it as 5GB or 500MB") from None
    if size < 1:
        raise UsageError(f"{text!r}: a file must be allowed at least one byte")
    return int(size)


__all__ = ["FilePlan", "MergeJob", "MergeOptions", "MergeReport", "SideFile", "parse_size"]
