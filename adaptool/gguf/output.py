"""A planned GGUF: its files, the tensors as they will lie in them, and what to say of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from adaptool.errors import FormatError
from adaptool.tensors.gguf import open_single
from adaptool.tensors.gguf_writer import GgufPlan
from adaptool.tensors.store import Store, totals_by_type
from adaptool.writing.job import Output

PIECE_BYTES = 2 << 20
"""Of 16-bit rows quantised at a time, per worker: in float32, with its blocks, some 6 MB."""

Departure = tuple[str, str]
"""A tensor's type, and why it is not the recipe's plain choice."""


@dataclass(frozen=True)
class GgufSummary:
    """What one GGUF holds."""

    files: tuple[str, ...]
    recipe: str
    nbytes: int
    tensors: int
    types: tuple[tuple[str, int, int], ...]
    """(type, tensors of it, bytes), the largest first."""
    bits_per_weight: float
    departures: tuple[tuple[str, str, int], ...]
    """(type, why it is not the recipe's plain choice, tensors): fallbacks and overrides."""


@dataclass(frozen=True, eq=False)
class GgufOutput:
    """One GGUF, planned: its files and the tensors as they will lie in them."""

    label: str
    """What it is quantised to: "Q4_K_M"."""
    store: Store
    plans: tuple[GgufPlan, ...]
    departures: Sequence[Departure] = ()
    mark: str = ""
    """What decides its tensors besides the model's files and its own header."""

    @cached_property
    def output(self) -> Output:
        """For a job to write."""
        return Output(self.store, self.plans, PIECE_BYTES, self.mark)

    @property
    def summary(self) -> GgufSummary:
        """For the report."""
        infos = self.store.infos.values()
        reasons = Counter(self.departures)
        return GgufSummary(
            tuple(plan.name for plan in self.plans),
            self.label,
            sum(plan.size for plan in self.plans),
            len(self.store),
            tuple(totals_by_type(infos)),
            self.store.nbytes * 8 / max(1, sum(info.size for info in infos)),
            tuple((name, why, count) for (name, why), count in reasons.most_common()),
        )

    @property
    def record(self) -> Mapping[str, Any]:
        """For the manifest."""
        summary = self.summary
        return {
            "files": list(summary.files),
            "type": summary.recipe,
            "tensor_types": {name: count for name, count, _ in summary.types},
        }

    def check(self, folder: Path) -> None:
        """Read the written files back and compare all that can be without the tensors; FormatError if one differs."""
        for plan in self.plans:
            found = open_single(folder / plan.name)
            same = found.offsets == dict(plan.offsets) and tuple(found.infos.values()) == plan.infos
            if not same or list(found.keys) != list(plan.keys):
                raise FormatError(f"{folder / plan.name}: what was written is not what was planned: please report it")
