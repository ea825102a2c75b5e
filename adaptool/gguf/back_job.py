"""Writing a GGUF back as a model folder: streamed, resumable, published whole or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from adaptool import __version__
from adaptool.errors import UsageError
from adaptool.gguf.back import model_folder
from adaptool.gguf.job import ConvertReport, WriteOptions
from adaptool.merging.folder import DEFAULT_SHARD
from adaptool.merging.provenance import conversion_identity, source_record
from adaptool.tensors.dtypes import DType
from adaptool.tensors.safetensors import INDEX_NAME
from adaptool.tensors.sniff import sniff
from adaptool.tensors.writer import index_json, plan_files, shard_groups
from adaptool.versions import MANIFEST_NAME, MANIFEST_SCHEMA, manifest_text
from adaptool.writing.job import SCRATCH, Output, WriteJob
from adaptool.writing.publish import publish


class BackJob(WriteJob):
    """One GGUF to a model folder in safetensors. Iterate it to run it, then read ``report``."""

    def __init__(
        self,
        path: Path,
        out: Path,
        options: WriteOptions,
        *,
        dtype: DType | None = None,
        shard_size: int | None = None,
    ) -> None:
        super().__init__(out, workers=options.workers, resume=options.resume, overwrite=options.overwrite)
        if not path.is_file() or sniff(path) != "gguf":
            raise UsageError(f"{path}: not a GGUF", hint="--to-safetensors takes a .gguf file")
        self.path = path
        self.folder = model_folder(path, dtype)
        """What is written."""
        store = self.folder.store
        self.plans = plan_files(store, shard_groups(store, shard_size or DEFAULT_SHARD))
        self._report: ConvertReport | None = None

    @property
    def notes(self) -> Sequence[str]:
        """What the user should know of the weights."""
        source = self.folder.source
        kinds = Counter(info.dtype.name for info in source.infos.values() if info.dtype.blocked)
        if not kinds:
            return self.folder.notes
        which = ", ".join(f"{number} {name}" for name, number in kinds.most_common())
        weights = f"{sum(kinds.values())} tensors are dequantised ({which}): they are not the original weights"
        return (weights, *self.folder.notes)

    @cached_property
    def phases(self) -> Sequence[Sequence[Output]]:
        return [[Output(self.folder.store, tuple(self.plans))]]

    @cached_property
    def identity(self) -> str:
        return conversion_identity([self.folder.source], (plan.header for plan in self.plans))

    @property
    def inputs(self) -> Iterable[Path]:
        return sorted(self.folder.source.files)

    @cached_property
    def _sides(self) -> Mapping[str, bytes]:
        index = {INDEX_NAME: index_json(self.plans).encode()} if len(self.plans) > 1 else {}
        return {**self.folder.files, **index}

    @property
    def side_nbytes(self) -> int:
        return sum(map(len, self._sides.values()))

    @property
    def estimate(self) -> ConvertReport:
        """What running the job would write."""
        files = (*(plan.name for plan in self.plans), *self._sides)
        return ConvertReport(self.out, tuple(sorted(files)), self.nbytes, (), tuple(self.notes))

    @property
    def report(self) -> ConvertReport:
        """What was done, once the job has run to its end."""
        assert self._report is not None, "the job has not run to its end"
        return self._report

    def finish(self, folder: Path, resumed: int) -> None:
        for name, content in self._sides.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        planned = self.estimate
        (folder / MANIFEST_NAME).write_text(manifest_text(self._manifest(folder, planned.files)), encoding="utf-8")
        publish(folder, self.out, SCRATCH)
        self._report = ConvertReport(planned.out, planned.files, planned.nbytes, (), planned.notes, resumed)

    def _manifest(self, folder: Path, files: Iterable[str]) -> Mapping[str, Any]:
        return {
            "schema": MANIFEST_SCHEMA,
            "kind": "converted",
            "adaptool": __version__,
            "base": source_record(self.path.name, self.folder.source),
            "files": [{"name": name, "size": (folder / name).stat().st_size} for name in files],
        }
