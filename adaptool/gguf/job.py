"""Writing GGUFs of their own: one as the file OUT, or several in the folder OUT."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from adaptool import __version__
from adaptool.errors import AdaptoolError, UsageError
from adaptool.gguf.general import VERSION_KEY
from adaptool.gguf.output import GgufOutput, GgufSummary
from adaptool.merging.provenance import conversion_identity, source_record
from adaptool.tensors.gguf import open_single
from adaptool.tensors.store import Store
from adaptool.versions import MANIFEST_NAME, MANIFEST_SCHEMA, listed_only, manifest_text
from adaptool.writing.job import SCRATCH, Output, WriteJob
from adaptool.writing.publish import publish, publish_file


@dataclass(frozen=True)
class ConvertReport:
    """What a conversion wrote, or would write."""

    out: Path
    files: tuple[str, ...]
    nbytes: int
    ggufs: tuple[GgufSummary, ...]
    notes: tuple[str, ...]
    resumed_pieces: int = 0


@dataclass(frozen=True)
class WriteOptions:
    """How a conversion is written; nothing here changes a byte of it."""

    workers: int
    resume: bool = False
    overwrite: bool = False


class GgufJob(WriteJob):
    """GGUFs planned from ``inputs``. Iterate it to run it, then read ``report``."""

    def __init__(
        self,
        planned: Sequence[GgufOutput],
        out: Path,
        sources: Mapping[Path, Store],
        options: WriteOptions,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(out, workers=options.workers, resume=options.resume, overwrite=options.overwrite)
        self.planned, self.notes = tuple(planned), tuple(notes)
        self._sources = sources
        self.single = single_file(out, planned)
        self.ours = is_own_gguf if self.single else listed_only
        self._report: ConvertReport | None = None

    @cached_property
    def phases(self) -> Sequence[Sequence[Output]]:
        return [[planned.output for planned in self.planned]]

    @cached_property
    def identity(self) -> str:
        facts = [fact for output in self.outputs for fact in output.facts]
        return conversion_identity(self._sources.values(), facts)

    @property
    def inputs(self) -> Iterable[Path]:
        return self._sources

    @property
    def estimate(self) -> ConvertReport:
        """What running the job would write."""
        files = tuple(plan.name for planned in self.planned for plan in planned.plans)
        summaries = tuple(planned.summary for planned in self.planned)
        return ConvertReport(self.out, files, self.nbytes, summaries, self.notes)

    @property
    def report(self) -> ConvertReport:
        """What was done, once the job has run to its end."""
        assert self._report is not None, "the job has not run to its end"
        return self._report

    def finish(self, folder: Path, resumed: int) -> None:
        for planned in self.planned:
            planned.check(folder)
        if self.single:
            publish_file(folder, self.planned[0].plans[0].name, self.out)
        else:
            text = manifest_text(self._manifest())
            (folder / MANIFEST_NAME).write_text(text, encoding="utf-8", errors="replace")
            publish(folder, self.out, SCRATCH)
        self._report = replace(self.estimate, resumed_pieces=resumed)

    def _manifest(self) -> Mapping[str, Any]:
        plans = [plan for planned in self.planned for plan in planned.plans]
        path, store = list(self._sources.items())[-1]
        return {
            "schema": MANIFEST_SCHEMA,
            "kind": "converted",
            "adaptool": __version__,
            "base": source_record(path.resolve().name, store),
            "gguf": [planned.record for planned in self.planned],
            "files": [{"name": plan.name, "size": plan.size} for plan in plans],
        }


def single_file(out: Path, planned: Sequence[GgufOutput]) -> bool:
    """Whether OUT is the file itself: for one GGUF in one file, whose name OUT then must be."""
    if len(planned) > 1 or len(planned[0].plans) > 1 or planned[0].plans[0].name != out.name:
        if out.suffix == ".gguf":
            raise UsageError(f"{out}: --out names a folder where several files are written", hint="leave .gguf out")
        return False
    return True


def is_own_gguf(path: Path) -> bool:
    """Whether a file is a GGUF that adaptool wrote."""
    try:
        return VERSION_KEY in open_single(path).keys
    except AdaptoolError:
        return False
