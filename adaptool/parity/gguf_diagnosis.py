"""Naming what is wrong with one tensor of a GGUF: which other thing it holds, found by trying them.

A hypothesis is another placement of the checkpoint's rows, another tensor, another scale. It is right where the
distance to it is what the type loses anyway: nothing else comes near that by chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from adaptool.archs.gguf.placed import Placed
from adaptool.parity.compare import BLOCK_BYTES
from adaptool.parity.diagnosis import DIFFERS, FEW, FEW_SHARE, NOT_FINITE, UNRELATED, Finding
from adaptool.parity.gguf_judged import Judged
from adaptool.parity.gguf_judging import numbers
from adaptool.parity.gguf_placings import misplacings
from adaptool.parity.gguf_trials import SAMPLE_SLACK, Case, Trials
from adaptool.parity.gguf_updates import Updates

WEIGHTS_SCALED, SWAPPED, ROWS = "weights scaled", "another tensor", "rows elsewhere"

PROBE_ROWS = 3
"""Rows that are searched for in the whole of the model's tensor."""

LEAST_SCALE = 0.02
"""A scale nearer to 1 is quantisation's own shrinkage."""

TINY = float(np.finfo(np.float32).tiny)

UNLIKE = 0.3
"""Cosine below which two tensors have nothing in common."""


class Diagnosis:
    """Diagnoses tensors of ``actual``; safe to call from several threads."""

    def __init__(self, trials: Trials) -> None:
        self._model, self._actual, self._trials = trials.model, trials.actual, trials
        self._updates = Updates(trials)

    def __call__(self, case: Case) -> Finding:
        """What is wrong with it."""
        judged = case.judged
        if judged.nonfinite:
            return Finding(NOT_FINITE)
        if is_local(judged) and judged.spared_rmse <= case.bound:
            return self._updates.by_bytes(case) or Finding(FEW, reasons=(_damage(judged),))
        found = self._updates(case) or _whole_scale(case) or next(self._elsewhere(case), None)
        return found or _unexplained(judged)

    def _elsewhere(self, case: Case) -> Iterator[Finding]:
        """The tensor laid in another way, or another tensor, or its own rows in another order."""
        placed = self._model.placed.get(case.own)
        if placed is None:
            return
        for other in misplacings(placed, self._model.spec, self._model.hparams):
            if (loss := self._trials.near(case, self._model.view(other.placed), case.own)) is not None:
                yield Finding(other.kind, None, None, loss, (other.words,))
            if case.own in self._model.touched and self._model.unmerged is not None:
                base = replace(self._model.unmerged, placed=(other.placed,))
                if (loss := self._trials.near(case, base, case.own)) is not None:
                    yield Finding(other.kind, 0.0, None, loss, (f"{other.words}, and the adapter was not applied",))
        for name in self._alike(case.own, placed):
            if (loss := self._trials.near(case, self._model.converted, name)) is not None:
                yield Finding(SWAPPED, None, None, loss, (name,))
        if len(placed.shape) > 1 and (words := self._moved_rows(case)):
            yield Finding(ROWS, reasons=(words,))

    def _alike(self, name: str, placed: Placed) -> list[str]:
        """Other tensors of its shape: of its layer first, then of its role in other layers."""
        prefix, role = _split(name)
        same = [other for other, one in self._model.placed.items() if one.shape == placed.shape and other != name]
        here = [other for other in same if _split(other)[0] == prefix]
        return here + [other for other in same if other not in here and _split(other)[1] == role]

    def _moved_rows(self, case: Case) -> str | None:
        """Where a few of the file's rows are found among the model's, if not at their own place."""
        rows = self._actual[case.name].rows
        wanted = sorted({rows // 5, rows // 2, rows - 1 - rows // 7})[:PROBE_ROWS]
        probes = self._trials.rows(case.name, [(row, row + 1) for row in wanted])
        nearest, found = np.full(len(wanted), np.inf), np.full(len(wanted), -1)
        expected = self._model.converted
        for start, stop in expected.spans(case.own, BLOCK_BYTES):
            x = numbers(expected, case.own, start, stop)
            squares = np.square(x).sum(axis=1)[:, None]
            share = (squares - 2 * x @ probes.T + np.square(probes).sum(axis=1)) / np.maximum(squares, TINY)
            best = share.argmin(axis=0)
            closest = share[best, range(len(wanted))]
            better = closest < nearest
            found[better], nearest[better] = best[better] + start, closest[better]
        limit = SAMPLE_SLACK * case.bound
        if (np.sqrt(np.maximum(nearest, 0)) > limit).any() or found.tolist() == wanted:
            return None
        row, place = next((row, place) for row, place in zip(wanted, found.tolist(), strict=True) if row != place)
        return f"row {row} is the model's row {place}"


def is_local(judged: Judged) -> bool:
    """Whether only few of the blocks are not the model's: by their bytes, or else by what they lost."""
    if judged.blocks:
        return judged.unequal - judged.rerouted <= FEW_SHARE * judged.blocks
    return 0 < judged.damaged_elements <= FEW_SHARE * judged.elements


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


def _split(name: str) -> tuple[str, str]:
    """ "blk.3.attn_q.weight" → ("blk.3", "attn_q.weight")."""
    parts = name.split(".", 2)
    return (".".join(parts[:2]), parts[2]) if parts[0] == "blk" and len(parts) == 3 else ("", name)
