"""Trying what a tensor of a GGUF might hold: a few of its rows against those of another candidate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adaptool.gguf.imatrix import Imatrix
from adaptool.gguf.mixtures import Choice
from adaptool.gguf.quantised import Quantised
from adaptool.parity.gguf_judged import Judged
from adaptool.parity.gguf_judging import can_quantise, file_values, numbers
from adaptool.parity.gguf_model import GgufModel
from adaptool.tensors.dtypes import Array, Floats
from adaptool.tensors.ggml.types import GGMLType
from adaptool.tensors.store import Store
from adaptool.tensors.views import Selected

SAMPLE_RUNS, RUN_ROWS = 4, 16
"""Places of a tensor that candidates are tried on, and rows of each."""

SAMPLE_SLACK = 1.25
"""Over the bound of a whole tensor: a sample's loss varies."""

MOSTLY = 0.9
"""Of a sample's blocks: more that are bit-equal, and the candidate it is, rounded a little otherwise."""

Runs = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Case:
    """A tensor that was judged wrong."""

    name: str
    """In the file."""
    own: str
    """The model's name for it."""
    judged: Judged
    bound: float
    """Of its relative RMSE."""


@dataclass(frozen=True)
class Trials:
    """Tries candidates for the tensors of ``actual`` that are not the model's; ``whole``: bytes can be compared."""

    model: GgufModel
    actual: Store
    imatrix: Imatrix | None
    whole: bool

    def runs(self, case: Case) -> Runs:
        """A few runs of rows, spread over the tensor, and one from the first that is not the model's."""
        rows = self.actual[case.name].rows
        if rows <= SAMPLE_RUNS * RUN_ROWS:
            return [(0, rows)]
        starts = np.linspace(0, rows - RUN_ROWS, SAMPLE_RUNS).astype(int).tolist()
        if (place := case.judged.unequal_at or case.judged.damaged_at) is not None:
            starts.append(min(place[0], rows - RUN_ROWS))
        return [(start, start + RUN_ROWS) for start in starts]

    def rows(self, name: str, runs: Runs) -> Floats:
        """The file's rows, dequantised."""
        return file_values(self._stored(name, runs), self.actual[name])

    def loss(self, case: Case, view: Store, own: str) -> float:
        """The sample's distance from a candidate tensor: ‖q − x‖ / ‖x‖."""
        runs = self.runs(case)
        q, x = self.rows(case.name, runs), np.concatenate([numbers(view, own, *run) for run in runs])
        length = float(np.linalg.norm(x))
        return float(np.linalg.norm(q - x.reshape(q.shape))) / length if length else math.inf

    def near(self, case: Case, view: Store, own: str) -> float | None:
        """The loss, where it is what the type loses; None where it is more: then it is another tensor."""
        loss = self.loss(case, view, own)
        return loss if loss <= SAMPLE_SLACK * case.bound else None

    def explains(self, case: Case, view: Store, own: str) -> bool:
        """Whether a candidate gives the bytes that the model does not, but for a few that were rounded otherwise.

        Without bytes to compare it cannot be told: another importance matrix may do as much as a small difference.
        """
        if not self.compares(case.name):
            return False
        share = self._equal_share(case, view, own)
        return share >= MOSTLY and 1 - share <= (1 - self._equal_share(case, self.model.converted, case.own)) / 2

    def _equal_share(self, case: Case, view: Store, own: str) -> float:
        """Of the sample's blocks: those that the candidate gives."""
        info, runs = self.actual[case.name], self.runs(case)
        choices: Mapping[str, Choice] = {case.name: Choice(info.dtype)}
        ours = Quantised(Selected(view, {case.name: own}), choices, self.imatrix)
        made = np.concatenate([ours.read(case.name, *run) for run in runs])
        same = self._stored(case.name, runs).reshape(made.shape) == made
        if isinstance(info.dtype, GGMLType):
            same = same.reshape(len(same), -1, info.dtype.block_nbytes).all(axis=-1)
        return float(np.count_nonzero(same) / max(1, same.size))

    def compares(self, name: str) -> bool:
        """Whether the bytes of a tensor tell what it is made of."""
        kind = self.actual[name].dtype
        return not kind.blocked or (self.whole and can_quantise(kind, self.imatrix))

    def _stored(self, name: str, runs: Runs) -> Array:
        return np.concatenate([self.actual.read(name, *run) for run in runs])
