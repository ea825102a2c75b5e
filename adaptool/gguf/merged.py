"""A merge's GGUFs: planned with the merge, written after it (or instead of it), in the same run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from adaptool.errors import UnsupportedError, UsageError
from adaptool.gguf.export import GgufOptions, GgufSource, plan_exports
from adaptool.gguf.general import Ingredient, Lineage
from adaptool.gguf.ollama import MODELFILE, modelfile
from adaptool.gguf.output import GgufOutput, GgufSummary
from adaptool.gguf.staging import staged
from adaptool.merging.folder import MergeJob
from adaptool.merging.provenance import base_name, hub_id
from adaptool.tensors.store import Store
from adaptool.versions import header_digest
from adaptool.writing.job import Output


def gguf_export(options: GgufOptions, *, ollama: bool = False) -> Callable[[MergeJob, Store], GgufExport]:
    """What to give ``MergeOptions.exports``."""
    return lambda job, store: GgufExport(job, store, options, ollama=ollama)


class GgufExport:
    """The GGUFs of one merge: ``<OUT's name>-<TYPE>.gguf`` in OUT."""

    def __init__(self, job: MergeJob, store: Store, options: GgufOptions, *, ollama: bool) -> None:
        self._ollama = ollama
        if job.out.suffix == ".gguf":
            raise UsageError(
                f"{job.out}: --out names the folder of a merge, GGUF or not",
                hint=f"try --out {job.out.with_suffix('')}",
            )
        if job.config is None:
            raise UnsupportedError(
                f"{job.merged.plan.base.path}: there is no config.json beside the weights, which a GGUF is made by",
                hint="give --base the model's folder",
            )
        with staged(job) as folder:
            source = GgufSource(store, job.config, folder, str(job.merged.plan.base.path), _lineage(job))
            exports = plan_exports(source, job.out.absolute().name, options)
        self._planned: Sequence[GgufOutput] = exports.outputs
        self.notes: Sequence[str] = exports.notes

    @cached_property
    def outputs(self) -> Sequence[Output]:
        return [planned.output for planned in self._planned]

    @property
    def summaries(self) -> Sequence[GgufSummary]:
        return [planned.summary for planned in self._planned]

    @property
    def records(self) -> Sequence[Mapping[str, Any]]:
        return [planned.record for planned in self._planned]

    def finish(self, folder: Path) -> None:
        for planned in self._planned:
            planned.check(folder)
        if self._ollama:
            first = self._planned[0].plans[0]
            (folder / MODELFILE).write_text(modelfile(first.name, first.keys), encoding="utf-8", errors="replace")


def _lineage(job: MergeJob) -> Lineage:
    base = job.merged.plan.base
    named = next((name for adapter, _ in job.adapters if (name := hub_id(adapter.config.base_model))), None)
    ingredients = zip(job.adapters, job.digests, strict=True)
    adapters = [Ingredient(adapter.name, weight, digest) for (adapter, weight), digest in ingredients]
    return Lineage(named or base_name(base), header_digest(base.store), adapters)
