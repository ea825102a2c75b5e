"""Merging into a model folder: streamed, checked, resumable, published whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from adaptool.adapters.adapter import Adapter
from adaptool.errors import MismatchError
from adaptool.merging.merged import Merged, output_prefix
from adaptool.merging.model_files import card, licence_of, merged_config, side_files
from adaptool.merging.options import MergeEstimate, MergeOptions, MergeReport
from adaptool.merging.provenance import hub_id, merge_identity, merge_manifest
from adaptool.merging.sampling import SampleCheck, SampledView
from adaptool.tensors.dtypes import DType, most_common
from adaptool.tensors.safetensors import INDEX_NAME, shard_of
from adaptool.tensors.store import Store
from adaptool.tensors.views import Cast, Selected
from adaptool.tensors.writer import (
    PIECE_BYTES,
    Piece,
    PieceWriter,
    Written,
    index_json,
    plan_files,
    shard_groups,
    shard_names,
)
from adaptool.versions import MANIFEST_NAME, adapter_digest, manifest_text
from adaptool.writing.job import SCRATCH, Output, WriteJob
from adaptool.writing.publish import publish

DEFAULT_SHARD = 5_000_000_000
"""Bytes of a weights file, where the base gives no sharding to keep."""


class MergeJob(WriteJob):
    """One merge into one folder. Iterate it to run it (each step yields the bytes done), then read ``report``."""

    def __init__(
        self,
        merged: Merged,
        adapters: Sequence[tuple[Adapter, float]],
        out: Path,
        options: MergeOptions,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(out, workers=options.workers, resume=options.resume, overwrite=options.overwrite)
        self.merged, self.adapters, self.options = merged, tuple(adapters), options
        base = merged.plan.base
        prefix = output_prefix(merged.plan)
        self.names = {prefix + name if name in base.store else name: name for name in merged}
        """Output tensor → its name in ``merged``."""
        output: Store = Selected(merged, self.names) if prefix else merged
        self.output: Store = Cast(output, options.dtype) if options.dtype is not None else output
        """The merged model as it is written, or would be: names and types final."""
        self.files = plan_files(self.output, self._groups()) if options.safetensors else []
        self.sample = SampleCheck(merged)
        folder = self.adapters[-1][0].folder
        self.sides, side_notes = side_files(base, folder, remote_code=options.remote_code)
        self.notes = [*notes, *merged.plan.notes, *side_notes]
        self._report: MergeReport | None = None
        self._weights = Output(self.output, tuple(self.files))
        self.exports = [export(self, self._export_source()) for export in options.exports]
        self.notes += [note for export in self.exports for note in export.notes]

    def _export_source(self) -> Store:
        """What a GGUF is made of: the files just written, or the merge itself where none are."""
        if self.files:
            return Written(self.partial, self.files)
        return SampledView(self.output, self.names, self.sample)

    @property
    def report(self) -> MergeReport:
        """What was done, once the job has run to its end."""
        assert self._report is not None, "the job has not run to its end"
        return self._report

    @cached_property
    def phases(self) -> Sequence[Sequence[Output]]:
        exported = [output for export in self.exports for output in export.outputs]
        return [phase for phase in ([self._weights] if self.files else [], exported) if phase]

    @property
    def inputs(self) -> Iterable[Path]:
        return [self.merged.plan.base.path, *(adapter.path for adapter, _ in self.adapters)]

    @property
    def side_nbytes(self) -> int:
        return sum(side.source.stat().st_size for side in self.sides)

    @cached_property
    def digests(self) -> Sequence[str]:
        """The content digest of each adapter, which is read once for all who record it."""
        return [adapter_digest(adapter) for adapter, _ in self.adapters]

    @cached_property
    def identity(self) -> str:
        facts = [fact for output in self.outputs for fact in output.facts]
        return merge_identity(self.merged, self.adapters, facts)

    @property
    def estimate(self) -> MergeEstimate:
        """What running the job would do."""
        plan = self.merged.plan
        pieces = [piece for output in self.outputs for piece in output.pieces]
        largest = max((piece.nbytes for piece in pieces if piece.copied_from is None), default=0)
        names = [file.name for output in self.outputs for file in output.plans]
        return MergeEstimate(
            self.out,
            len(self.output),
            len(self.merged.changed),
            self.nbytes,
            self._copied_nbytes,
            self.options.workers * (largest + PIECE_BYTES),
            self.options.workers,
            tuple(names) + (tuple(side.name for side in self.sides) if self.files else ()),
            tuple((new, plan.describe(old)) for new, old in self.names.items() if old in self.merged.changed),
            tuple(summary for export in self.exports for summary in export.summaries),
        )

    @property
    def _copied_nbytes(self) -> int:
        return sum(piece.nbytes for piece in self._weights.pieces if piece.copied_from is not None)

    def wrote(self, output: Output, piece: Piece, writer: PieceWriter) -> None:
        if output is self._weights and piece.copied_from is None:
            name, kind = self.names[piece.tensor], self.output[piece.tensor].dtype
            read = partial(writer.read_back, piece)
            self.sample(name, piece.tensor, piece.start, piece.stop, kind, read)

    def written(self) -> None:
        self._refuse_unchanged(self.sample)

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

    def finish(self, folder: Path, resumed: int) -> None:
        sampled = self._sampled_rows()
        if self.files:
            self.write_sides(folder)
            self._describe(folder)
        for export in self.exports:
            export.finish(folder)
        findings = dict(check(self, folder) for check in self.options.checks)
        present = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in SCRATCH)
        files = [(str(path.relative_to(folder)), path.stat().st_size) for path in present]
        manifest = merge_manifest(
            self.merged,
            self.adapters,
            files,
            dtype=self.main_dtype,
            sampled=sampled,
            digest_base=self.options.digest_base,
            digests=self.digests,
            notes=self.notes,
            gguf=[record for export in self.exports for record in export.records],
        )
        (folder / MANIFEST_NAME).write_text(manifest_text(manifest), encoding="utf-8", errors="replace")
        publish(folder, self.out, SCRATCH)
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
            tuple(summary for export in self.exports for summary in export.summaries),
        )

    def _sampled_rows(self) -> int:
        if not self.files:
            return self.sample.seen.rows
        # an earlier run sampled a piece before it recorded it, so all of them have been
        computed = [piece for piece in self._weights.pieces if piece.copied_from is None]
        return sum(self.sample.applies(self.names[piece.tensor]) for piece in computed)

    @cached_property
    def main_dtype(self) -> DType:
        """The type most of the output is in: what config.json says."""
        return most_common((info.dtype, info.size) for info in self.output.infos.values())

    @cached_property
    def config(self) -> Mapping[str, Any] | None:
        """config.json of the merged model; None where the base has none."""
        task = next((a.config.task_type for a, _ in reversed(self.adapters) if a.config.task_type), None)
        plan, dtype = self.merged.plan, self.main_dtype.torch_name
        return merged_config(plan, dtype, task, remote_code=self.options.remote_code)

    @property
    def card(self) -> str:
        """README.md of the merged model."""
        bases = sorted({name for a, _ in self.adapters if (name := hub_id(a.config.base_model))})
        made_of = [a.name if weight == 1 else f"{a.name} (weight {weight:g})" for a, weight in self.adapters]
        licence = licence_of(self.merged.plan.base.folder)
        return card(bases, made_of, licence, transformers=self.config is not None)

    def write_sides(self, folder: Path, *, linked: bool = False) -> None:
        """Copy what lies beside the base's weights, or the adapter's, into ``folder``; ``linked``: as symlinks."""
        for side in self.sides:
            target = folder / side.name
            target.parent.mkdir(exist_ok=True)
            target.symlink_to(side.source.absolute()) if linked else shutil.copyfile(side.source, target)

    def _describe(self, folder: Path) -> None:
        if len(self.files) > 1:
            (folder / INDEX_NAME).write_text(index_json(self.files), encoding="utf-8", errors="replace")
        if self.config is not None:
            _write_json(folder / "config.json", self.config)
        (folder / "README.md").write_text(self.card, encoding="utf-8", errors="replace")


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", errors="replace")
