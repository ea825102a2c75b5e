"""Converting a model that is merged already: one GGUF as the file OUT, or several in the folder OUT."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from adaptool import __version__
from adaptool.adapters.base import BaseModel
from adaptool.errors import AdaptoolError, UnsupportedError, UsageError
from adaptool.gguf.export import GgufOptions, GgufSource, GgufSummary, plan_exports
from adaptool.gguf.general import VERSION_KEY, Lineage
from adaptool.merging.provenance import base_name, conversion_identity
from adaptool.tensors.dtypes import DType
from adaptool.tensors.gguf import open_single
from adaptool.tensors.store import Store
from adaptool.tensors.views import Cast
from adaptool.versions import MANIFEST_NAME, MANIFEST_SCHEMA, header_digest, listed_only, manifest_text
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


class GgufJob(WriteJob):
    """One model to one or several GGUFs. Iterate it to run it, then read ``report``."""

    def __init__(
        self,
        model: BaseModel,
        out: Path,
        options: GgufOptions,
        *,
        workers: int,
        dtype: DType | None = None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        super().__init__(out, workers=workers, resume=resume, overwrite=overwrite)
        if model.config is None:
            raise UnsupportedError(
                f"{model.path}: there is no config.json beside the weights, which a GGUF is made by",
                hint="give the model's folder",
            )
        self.single = len(options.recipes) == 1 and options.split_nbytes is None
        self.ours = is_own_gguf if self.single else listed_only
        if self.single and out.suffix != ".gguf":
            raise UsageError(f"{out}: --out names the file to write, which ends in .gguf", hint=f"try --out {out}.gguf")
        self.model = model
        store: Store = Cast(model.store, dtype) if dtype is not None else model.store
        lineage = Lineage(base_name(model), header_digest(model.store))
        source = GgufSource(store, model.config, model.folder, str(model.path), lineage)
        name = out.name.removesuffix(".gguf") if self.single else out.absolute().name
        self.planned = plan_exports(source, name, options, suffixed=not self.single)
        self.notes: Sequence[str] = ()
        self._report: ConvertReport | None = None

    @cached_property
    def phases(self) -> Sequence[Sequence[Output]]:
        return [[planned.output for planned in self.planned]]

    @cached_property
    def identity(self) -> str:
        return conversion_identity(self.model.store, (plan.header for each in self.planned for plan in each.plans))

    @property
    def inputs(self) -> Iterable[Path]:
        return [self.model.path]

    @property
    def estimate(self) -> ConvertReport:
        """What running the job would write."""
        files = tuple(plan.name for planned in self.planned for plan in planned.plans)
        summaries = tuple(planned.summary for planned in self.planned)
        return ConvertReport(self.out, files, self.nbytes, summaries, tuple(self.notes))

    @property
    def report(self) -> ConvertReport:
        """What was done, once the job has run to its end."""
        assert self._report is not None, "the job has not run to its end"
        return self._report

    def finish(self, folder: Path, resumed: int) -> None:
        for planned in self.planned:
            planned.check(folder)
        estimate = self.estimate
        if self.single:
            publish_file(folder, estimate.files[0], self.out)
        else:
            (folder / MANIFEST_NAME).write_text(manifest_text(self._manifest(folder)), encoding="utf-8")
            publish(folder, self.out, SCRATCH)
        self._report = ConvertReport(
            estimate.out, estimate.files, estimate.nbytes, estimate.ggufs, estimate.notes, resumed
        )

    def _manifest(self, folder: Path) -> Mapping[str, Any]:
        files = [plan.name for planned in self.planned for plan in planned.plans]
        return {
            "schema": MANIFEST_SCHEMA,
            "kind": "converted",
            "adaptool": __version__,
            "base": {"name": base_name(self.model), "header_digest": header_digest(self.model.store)},
            "gguf": [planned.record for planned in self.planned],
            "files": [{"name": name, "size": (folder / name).stat().st_size} for name in files],
        }


def is_own_gguf(path: Path) -> bool:
    """Whether a file is a GGUF that adaptool wrote."""
    try:
        return VERSION_KEY in open_single(path).keys
    except AdaptoolError:
        return False
