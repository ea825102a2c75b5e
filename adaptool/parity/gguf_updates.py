"""What became of an adapter's update in a tensor of a GGUF: whether it is there, at which scale, or another one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median

from adaptool.adapters.patches import LowRank, Patch
from adaptool.gguf.converted import Converted
from adaptool.parity.diagnosis import (
    EXTRA,
    FLIPPED,
    LEFT_OUT,
    NO_MAGNITUDE,
    NOT_APPLIED,
    NOT_TRUNCATED,
    OTHER,
    ROUGH,
    SAME_SCALE,
    SCALED,
    TWICE,
    Finding,
    kind_of,
    variants,
)
from adaptool.parity.gguf_bands import SAME_QUANTISER, typical
from adaptool.parity.gguf_judged import Update
from adaptool.parity.gguf_model import Merging
from adaptool.parity.gguf_trials import Case, Trials
from adaptool.parity.scales import excuses
from adaptool.tensors.views import Selected

UPDATES = (NOT_APPLIED, SCALED, TWICE, FLIPPED, LEFT_OUT, NO_MAGNITUDE, NOT_TRUNCATED, OTHER, EXTRA)
"""What can be wrong with an update."""

GUESSED = (SCALED, TWICE, FLIPPED, NOT_APPLIED)
"""Kinds that may rest on a measured scale alone."""

FAINT = 0.3
"""Of an update: where our quantiser keeps less, the type's steps are too coarse to tell its scale."""

UPDATE_TOLERANCE = 0.1
"""On the scale of an update, besides six standard errors: what quantisers differ by."""

UNDECIDED = 0.4
"""Six standard errors above this say nothing of one tensor alone."""

RELATED = 0.5
"""Of a tensor's length: what is further off is not this tensor with another update."""

SCATTER = 0.05
"""Of a scale: more, between the tensors of one merge, and the scale is chance."""

WHOLE = 0.5
"""Of an update: where more of it is there, something was added to it."""


def off(update: Update) -> bool:
    """Whether an update is certainly not there at its scale."""
    if not update.length:
        return False
    slack = UPDATE_TOLERANCE + 6 * update.deviation
    low, high = min(update.expected, 1.0), max(update.expected, 1.0)
    return 6 * update.deviation <= UNDECIDED and not low - slack <= update.k <= high + slack


class Updates:
    """Diagnoses the updates of one merge; safe to call from several threads."""

    def __init__(self, trials: Trials) -> None:
        self._model, self._trials = trials.model, trials

    def __call__(self, case: Case) -> Finding | None:
        """What is wrong with the update of a tensor that is wrong; None where that is not the reason."""
        update, merging = case.judged.update, self._model.merging
        if not update.length or merging is None:
            return None
        if (known := self.by_bytes(case)) is not None:
            return known
        left = _left(case)
        if left <= self._allowed(case) and off(update):
            return self._scaled(case, merging, left)
        if case.judged.rmse > RELATED or not (off(update) or self._trials.whole):
            return None
        k = update.k if update.k > WHOLE else None
        return Finding(OTHER if k is None else EXTRA, k, None, left)

    def by_bytes(self, case: Case) -> Finding | None:
        """The mistake that gives these very bytes, if a known one does."""
        merging, base = self._model.merging, self._model.unmerged
        touched = case.own in self._model.touched and self._trials.compares(case.name)
        if merging is None or base is None or not touched:
            return None
        if self._trials.explains(case, base, case.own):
            return Finding(NOT_APPLIED, 0.0)
        tried = (found for found, view in self._variants(case, merging) if self._trials.explains(case, view, case.own))
        return next(tried, None)

    def _allowed(self, case: Case) -> float:
        """The loss of a tensor that holds the update at some scale, and nothing else."""
        ours = case.judged.our_rmse
        if ours is None or not self._trials.compares(case.name):
            return case.bound
        return math.hypot(SAME_QUANTISER * ours, typical(self._model.float_type))

    def _scaled(self, case: Case, merging: Merging, left: float) -> Finding:
        update = case.judged.update
        k = update.k / update.expected if update.expected > FAINT else update.k
        tolerance = SAME_SCALE * max(1.0, abs(k)) + 6 * update.deviation
        patches = next(iter(self._patches(case, merging).values()), ())
        known = [excuse for excuse in excuses(patches, merging.adapters) if abs(excuse.k - k) <= tolerance]
        reasons = tuple(excuse.words for excuse in known if excuse.words)
        kind = NOT_APPLIED if abs(k) <= tolerance + UPDATE_TOLERANCE else kind_of(k)
        if kind == NOT_APPLIED and self._trials.compares(case.name):  # its bytes would be the base's
            return Finding(OTHER, None, None, left)
        return Finding(SCALED if kind == ROUGH else kind, k, None, left, reasons)

    def _variants(self, case: Case, merging: Merging) -> Iterator[tuple[Finding, Converted]]:
        """The tensor as wrong merges make it: at a known wrong scale, an adapter left out, DoRA's magnitude ignored."""
        patches = self._patches(case, merging)
        for each in zip(*(_mistakes(own, merging) for own in patches.values()), strict=False):
            instead = {name: other for name, (_, other) in zip(patches, each, strict=True)}
            merged = merging.merged
            plan = replace(merged.plan, patches={**merged.plan.patches, **instead})
            source = Selected(replace(merged, plan=plan), merging.names)
            yield each[0][0], replace(self._model.converted, source=source)

    def _patches(self, case: Case, merging: Merging) -> dict[str, Sequence[Patch]]:
        """Of every tensor of the merge that this one is made of."""
        names = [merging.names[source] for source in self._model.placed[case.own].sources]
        patches = merging.merged.plan.patches
        return {name: patches[name] for name in names if name in patches}


def _mistakes(patches: Sequence[Patch], merging: Merging) -> Iterator[tuple[Finding, Sequence[Patch]]]:
    known = excuses(patches, merging.adapters)
    for k in dict.fromkeys(excuse.k for excuse in known if excuse.k not in (0.0, 1.0)):
        if len(patches) == 1 and isinstance(patches[0], LowRank):
            reasons = tuple(excuse.words for excuse in known if excuse.words and math.isclose(excuse.k, k))
            yield Finding(kind_of(k), k, reasons=reasons), [_rescaled(patches[0], k)]
    yield from variants(patches, merging.adapters)


def _rescaled(patch: LowRank, k: float) -> LowRank:
    return replace(patch, scale=patch.scale * k)


def settled(findings: Mapping[str, Finding]) -> dict[str, Finding]:
    """Findings of several tensors made to agree: scales that scatter are not one merge's, but another adapter's."""
    guessed = [name for name, found in findings.items() if found.kind in GUESSED and found.residual is not None]
    scales = [found.k for name in guessed if (found := findings[name]).k is not None]
    kinds = Counter(found.kind for found in findings.values())
    other = kinds[OTHER] > len(guessed) + kinds[EXTRA] or _scatter(scales)
    changed = {name for name, found in findings.items() if name in guessed or found.kind == EXTRA} if other else ()
    return {name: Finding(OTHER, None, None, found.residual) if name in changed else found
            for name, found in findings.items()}  # fmt: skip


def _scatter(scales: Sequence[float]) -> bool:
    if not scales:
        return False
    middle = median(scales)
    return median(abs(scale - middle) for scale in scales) > SCATTER * max(abs(middle), 1.0)


def _left(case: Case) -> float:
    """The loss that is left where the update is taken at the scale it is there at."""
    update, judged = case.judged.update, case.judged
    rest = max(0.0, update.moved - update.along**2 / update.length)
    held = judged.squares * update.elements / max(1, judged.elements)
    return math.sqrt(rest / held) if held else math.inf
