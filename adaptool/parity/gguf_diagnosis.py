"""Naming what is wrong with one tensor of a GGUF: which other thing it holds, found by trying them.

A hypothesis is another placement of the checkpoint's rows, another tensor, another scale. It is right where the
distance to it is what the type loses anyway: nothing else comes near that by chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from adaptool.archs.gguf.placed import Placed
from adaptool.parity.compare import BLOCK_BYTES
from adaptool.parity.diagnosis import (
    DIFFERS,
    FEW,
    FEW_SHARE,
    FLIPPED,
    NOT_APPLIED,
    NOT_FINITE,
    SAME_SCALE,
    SCALED,
    TWICE,
    UNRELATED,
    Finding,
)
from adaptool.parity.gguf_judged import Judged, Update
from adaptool.parity.gguf_judging import file_values, numbers
from adaptool.parity.gguf_model import GgufModel
from adaptool.parity.gguf_placings import misplacings
from adaptool.parity.scales import excuses
from adaptool.tensors.dtypes import Floats
from adaptool.tensors.store import Store

WEIGHTS_SCALED, SWAPPED, ROWS = "weights scaled", "another tensor", "rows elsewhere"
UPDATES = (NOT_APPLIED, SCALED, TWICE, FLIPPED)

SAMPLE_RUNS, RUN_ROWS = 4, 16
"""Places of a tensor that hypotheses are tried on, and rows of each."""

SAMPLE_SLACK = 1.25
"""Over the bound of a whole tensor: a sample's loss varies."""

PROBE_ROWS = 3
"""Rows that are searched for in the whole of the model's tensor."""

LEAST_SCALE = 0.02
"""A scale nearer to 1 is quantisation's own shrinkage."""

TINY = float(np.finfo(np.float32).tiny)

UNLIKE = 0.3
"""Cosine below which two tensors have nothing in common."""


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


class Diagnosis:
    """Diagnoses tensors of ``actual``; safe to call from several threads."""

    def __init__(self, model: GgufModel, actual: Store) -> None:
        self._model, self._actual = model, actual

    def __call__(self, case: Case) -> Finding:
        """What is wrong with it."""
        judged = case.judged
        if judged.nonfinite:
            return Finding(NOT_FINITE)
        if judged.spared_rmse <= case.bound and judged.damaged_elements <= FEW_SHARE * judged.elements:
            return self._of_update(case) or Finding(FEW, reasons=(_damage(judged),))
        if (update := self._of_update(case)) is not None:
            return update
        if (scale := _whole_scale(case)) is not None:
            return scale
        return next(self._elsewhere(case), None) or _unexplained(judged)

    def _of_update(self, case: Case) -> Finding | None:
        """The update at another scale than 1, where that explains the rest."""
        update, merging = case.judged.update, self._model.merging
        if not update.length or merging is None:
            return None
        left = math.sqrt(max(0.0, update.moved - update.along**2 / update.length) * case.judged.elements)
        loss = left / math.sqrt(max(update.elements * case.judged.squares, TINY))
        if loss > case.bound or not off(update):
            return None
        k = update.k / update.expected if update.expected > FAINT else update.k
        tolerance = SAME_SCALE * max(1.0, abs(k)) + 6 * update.deviation
        names = [merging.names[source] for source in self._model.placed[case.own].sources]
        plan = merging.merged.plan.patches
        patches = next((plan[name] for name in names if name in plan), ())
        known = [excuse for excuse in excuses(patches, merging.adapters) if abs(excuse.k - k) <= tolerance]
        reasons = tuple(excuse.words for excuse in known if excuse.words)
        for kind, scale in ((NOT_APPLIED, 0.0), (TWICE, 2.0), (FLIPPED, -1.0)):
            if abs(k - scale) <= tolerance + UPDATE_TOLERANCE * (scale == 0):
                return Finding(kind, scale, None, loss, reasons)
        return Finding(SCALED, k, None, loss, reasons)

    def _elsewhere(self, case: Case) -> Iterator[Finding]:
        """The tensor laid in another way, or another tensor, or its own rows in another order."""
        placed = self._model.placed.get(case.own)
        if placed is None:
            return
        runs = _runs(self._actual[case.name].rows)
        q = self._rows(case.name, runs)
        limit = SAMPLE_SLACK * case.bound
        for other in misplacings(placed, self._model.spec, self._model.hparams):
            loss = self._loss(other.placed, runs, q)
            if loss <= limit:
                yield Finding(other.kind, None, None, loss, (other.words,))
        for name in self._alike(case.own, placed):
            loss = self._loss(self._model.placed[name], runs, q)
            if loss <= limit:
                yield Finding(SWAPPED, None, None, loss, (name,))
        if len(placed.shape) > 1 and (words := self._moved_rows(case, limit)):
            yield Finding(ROWS, reasons=(words,))

    def _loss(self, placed: Placed, runs: Sequence[tuple[int, int]], q: Floats) -> float:
        view = self._model.view(placed)
        x = np.concatenate([numbers(view, placed.name, *run) for run in runs])
        return _distance(q, x)

    def _rows(self, name: str, runs: Sequence[tuple[int, int]]) -> Floats:
        info = self._actual[name]
        return np.concatenate([
            file_values(self._actual.read(name, *run), info, np.empty((run[1] - run[0], info.columns))) for run in runs
        ])  # fmt: skip

    def _alike(self, name: str, placed: Placed) -> list[str]:
        """Other tensors of its shape: of its layer first, then of its role in other layers."""
        prefix, role = _split(name)
        same = [other for other, one in self._model.placed.items() if one.shape == placed.shape and other != name]
        here = [other for other in same if _split(other)[0] == prefix]
        return here + [other for other in same if other not in here and _split(other)[1] == role]

    def _moved_rows(self, case: Case, limit: float) -> str | None:
        """Where a few of the file's rows are found among the model's, if not at their own place."""
        rows = self._actual[case.name].rows
        wanted = sorted({rows // 5, rows // 2, rows - 1 - rows // 7})[:PROBE_ROWS]
        probes = self._rows(case.name, [(row, row + 1) for row in wanted])
        nearest, found = np.full(len(wanted), np.inf), np.full(len(wanted), -1)
        expected = self._model.converted
        for start, stop in expected.spans(case.own, BLOCK_BYTES):
            x = numbers(expected, case.own, start, stop)
            squares = np.square(x).sum(axis=1)[:, None]
            away = squares - 2 * x @ probes.T + np.square(probes).sum(axis=1)
            share = away / np.maximum(squares, TINY)
            best = share.argmin(axis=0)
            better = share[best, range(len(wanted))] < nearest
            found[better], nearest[better] = best[better] + start, share[best, range(len(wanted))][better]
        if (np.sqrt(np.maximum(nearest, 0)) > limit).any() or found.tolist() == wanted:
            return None
        row, place = next((row, place) for row, place in zip(wanted, found.tolist(), strict=True) if row != place)
        return f"row {row} is the model's row {place}"


FAINT = 0.3
"""Of an update: where our quantiser keeps less, the type's steps are too coarse to tell its scale."""

UPDATE_TOLERANCE = 0.1
"""On the scale of an update, besides six standard errors: what quantisers differ by."""

UNDECIDED = 0.4
"""Six standard errors above this say nothing of one tensor alone."""


def off(update: Update) -> bool:
    """Whether an update is certainly not there at its scale."""
    if not update.length:
        return False
    slack = UPDATE_TOLERANCE + 6 * update.deviation
    low, high = min(update.expected, 1.0), max(update.expected, 1.0)
    return 6 * update.deviation <= UNDECIDED and not low - slack <= update.k <= high + slack


def _whole_scale(case: Case) -> Finding | None:
    """The whole tensor at another scale."""
    judged = case.judged
    if not judged.squares:
        return None
    scale = judged.product / judged.squares
    left = max(0.0, judged.own_squares - scale * judged.product)
    if abs(scale - 1) < LEAST_SCALE or not scale or math.sqrt(left / judged.squares) > case.bound * abs(scale):
        return None
    return Finding(WEIGHTS_SCALED, scale)


def _unexplained(judged: Judged) -> Finding:
    lengths = math.sqrt(judged.squares * judged.own_squares)
    cosine = judged.product / lengths if lengths else 0.0
    return Finding(DIFFERS if cosine > UNLIKE else UNRELATED, None, cosine, judged.rmse)


def _damage(judged: Judged) -> str:
    place = judged.damaged_at or judged.unequal_at
    return f"the first at row {place[0]}, column {place[1]}" if place else ""


def _distance(q: Floats, x: Floats) -> float:
    length = float(np.linalg.norm(x))
    return float(np.linalg.norm(q - x)) / length if length else math.inf


def _runs(rows: int) -> list[tuple[int, int]]:
    """A few runs of rows, spread over the tensor."""
    if rows <= SAMPLE_RUNS * RUN_ROWS:
        return [(0, rows)]
    return [(start, start + RUN_ROWS) for start in np.linspace(0, rows - RUN_ROWS, SAMPLE_RUNS).astype(int).tolist()]


def _split(name: str) -> tuple[str, str]:
    """ "blk.3.attn_q.weight" → ("blk.3", "attn_q.weight")."""
    parts = name.split(".", 2)
    return (".".join(parts[:2]), parts[2]) if parts[0] == "blk" and len(parts) == 3 else ("", name)
