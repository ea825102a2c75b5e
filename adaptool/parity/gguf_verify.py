"""Verifying a GGUF: is it what this model, or this merge, gives in its types, whoever made it? And if not, why not?

Our quantisers are llama-quantize's byte for byte, so the first answer is the bytes'. Where they differ (an imatrix,
another quantiser, a merge rounded elsewhere) each tensor's loss is held against what its type loses on these weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from adaptool.errors import FormatError, UnsupportedError
from adaptool.gguf.imatrix import Imatrix
from adaptool.gguf.recipe import FILE_TYPES
from adaptool.jobs import default_workers, run
from adaptool.parity.compare import Pair, measure_pairs
from adaptool.parity.defects import Suspect
from adaptool.parity.diagnosis import FEW_SHARE, FLIPPED, NOT_APPLIED, SCALED, Finding
from adaptool.parity.gguf_bands import bound, typical
from adaptool.parity.gguf_defects import GgufEvidence, tensor_defects
from adaptool.parity.gguf_diagnosis import Diagnosis
from adaptool.parity.gguf_judged import Judged, Update, total
from adaptool.parity.gguf_judging import SLOW, Judge, can_quantise
from adaptool.parity.gguf_metadata import check_metadata
from adaptool.parity.gguf_model import GgufModel
from adaptool.parity.gguf_report import (
    GGUF_VERDICTS,
    GgufTensorVerdict,
    GgufVerdict,
    GgufVerification,
    TypeLoss,
    good_sentence,
)
from adaptool.parity.gguf_routes import Route, find_route
from adaptool.parity.gguf_trials import Case, Trials
from adaptool.parity.gguf_updates import UPDATE_TOLERANCE, Updates, off, settled
from adaptool.tensors.compute import single_threaded_blas
from adaptool.tensors.dtypes import DType
from adaptool.tensors.ggml.types import GGMLType
from adaptool.tensors.gguf import GgufFile, SplitGguf, open_gguf
from adaptool.tensors.views import Selected

UNSURE = ("IQ1_M",)
"""Types whose quantisers are known to disagree in a rare row."""

EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"


@dataclass
class GgufVerifyJob:
    """One verification. Iterate it to run it (each step yields the bytes done), then read ``report``."""

    model: GgufModel
    actual: GgufFile | SplitGguf
    imatrix: Imatrix | None = None
    workers: int = field(default_factory=default_workers)
    notes: Sequence[str] = ()
    """What the user should know of the inputs."""

    def __post_init__(self) -> None:
        for info in self.actual.infos.values():
            if not (info.dtype.mergeable or info.dtype.blocked):
                raise UnsupportedError(f"{self.actual}: {info.name} is {info.dtype}, which is no type of weights")
        self._report: GgufVerification | None = None

    @cached_property
    def names(self) -> Mapping[str, str]:
        """Tensor of the file → of the model; a head that the file stores beside the embedding it shares is both."""
        expected = self.model.converted.infos
        names = {name: name for name in self.actual if name in expected}
        if OUTPUT in self.actual and OUTPUT not in expected and EMBEDDING in expected:
            names[OUTPUT] = EMBEDDING
        return names

    @cached_property
    def pairs(self) -> Sequence[Pair]:
        """What is compared."""
        fitting = [name for name in self.names if self._fits(name)]
        return [Pair(name, name, self.actual[name].rows) for name in fitting]

    def _fits(self, name: str) -> bool:
        return _bare(self.actual[name].shape) == _bare(self.model.converted[self.names[name]].shape)

    @property
    def nbytes(self) -> int:
        """Bytes to be compared."""
        return sum(self.route.model.converted[self.names[pair.actual]].nbytes for pair in self.pairs)

    @property
    def report(self) -> GgufVerification:
        """What was found, once the job has run to its end."""
        assert self._report is not None, "the job has not run to its end"
        return self._report

    @cached_property
    def route(self) -> Route:
        """What it is held against, and whether byte by byte."""
        names = {pair.actual: self.names[pair.actual] for pair in self.pairs}
        return find_route(self.model, self.actual, names, self.imatrix)

    def __iter__(self) -> Iterator[int]:
        judge = Judge(self.route.model, self.actual, self.names, self.imatrix, whole=self.route.whole)
        judged: dict[str, Judged] = {}
        expected = Selected(self.route.model.converted, self.names)
        with single_threaded_blas():
            for done in measure_pairs(self.pairs, expected, judge, self.workers):
                if done.pair is not None:
                    judged[done.pair.actual] = total(done.parts)
                yield done.nbytes
            self._report = self._conclude({pair.actual: judged[pair.actual] for pair in self.pairs})

    def _conclude(self, judged: Mapping[str, Judged]) -> GgufVerification:
        bounds = {name: self._bound(name, one) for name, one in judged.items()}
        proven = {self.actual[name].dtype for name, one in judged.items() if one.blocks and not one.unequal}
        verdicts = {name: self._verdict(name, one, bounds[name], proven) for name, one in judged.items()}
        lost = self._lost_together(judged, verdicts)
        verdicts |= dict.fromkeys(lost, "wrong")
        cases = {name: Case(name, self.names[name], judged[name], bounds[name])
                 for name, verdict in verdicts.items() if verdict == "wrong"}  # fmt: skip
        findings = settled(self._diagnosed(cases, lost))
        metadata = check_metadata(self.model, self.actual.keys, self.actual)
        suspects = tuple(Suspect(name, findings[name]) for name in judged if name in findings)
        missing = tuple(name for name in self.model.converted if name not in self.names.values())
        unexpected = tuple(name for name in self.actual if name not in self.names)
        misshapen = tuple((name, self._how_misshapen(name)) for name in self.names if not self._fits(name))
        touched = tuple(name for name in judged if self.names[name] in self.model.touched)
        merging = self.model.merging
        own_head = OUTPUT if merging is not None and merging.merged.plan.unties else None
        evidence = GgufEvidence(tuple(judged), touched, suspects, missing, unexpected, misshapen, own_head)
        defects = (*tensor_defects(evidence), *metadata.defects)
        if metadata.defects and metadata.defects[0].kind == "architecture":
            defects = (*metadata.defects, *tensor_defects(evidence))
        tensors = tuple(
            self._tensor(name, one, verdicts[name], bounds[name], findings.get(name)) for name, one in judged.items()
        )
        counts: dict[GgufVerdict, int] = dict.fromkeys(GGUF_VERDICTS, 0) | Counter(verdicts.values())
        verdict: GgufVerdict = "wrong" if defects else "within the band" if counts["within the band"] else "bit-equal"
        return GgufVerification(
            verdict=verdict,
            sentence=defects[0].sentence if defects else self._good_sentence(tensors),
            file_type=self._file_type, counts=counts, types=tuple(self._types(tensors)), defects=defects,
            tensors=tensors, missing=missing, unexpected=unexpected,
            notes=(*self.model.notes, *self._notes(judged), *metadata.notes),
        )  # fmt: skip

    def _diagnosed(self, cases: Mapping[str, Case], lost: Mapping[str, Finding]) -> dict[str, Finding]:
        """What is wrong with each tensor; of those that only together are wrong what all of them have lost."""
        trials = Trials(self.route.model, self.actual, self.imatrix, self.route.whole)
        diagnosis, updates = Diagnosis(trials), Updates(trials)

        def diagnose(name: str) -> tuple[str, Finding]:
            known = lost.get(name)
            return name, diagnosis(cases[name]) if known is None else updates.by_bytes(cases[name]) or known

        found = dict(run(diagnose, cases, self.workers))
        return {name: found[name] for name in cases}  # they come as they are finished

    def _bound(self, name: str, judged: Judged) -> float:
        kind, own = self.actual[name].dtype, self.names[name]
        limit = bound(kind, judged.our_rmse, imatrix=not self.route.whole)
        if own in self.model.touched:  # merged and rounded elsewhere
            limit = float(np.hypot(limit, typical(self.route.model.float_type)))
        return limit

    def _verdict(self, name: str, judged: Judged, limit: float, proven: Container[DType]) -> GgufVerdict:
        """``proven`` are the types whose quantiser was ours in some tensor, and so in all."""
        if judged.nonfinite:
            return "wrong"
        width = kind.block if isinstance(kind := self.actual[name].dtype, GGMLType) else 1
        equal = judged.blocks > 0 and not judged.unequal
        if equal and judged.blocks * width == judged.elements:
            return "bit-equal"
        left = judged.unequal - judged.rerouted
        if judged.unequal and not left:
            return "within the band"
        if judged.damaged or min(judged.rmse, judged.unrounded_rmse or np.inf) > limit or off(judged.update):
            return "wrong"
        if equal:
            return "bit-equal"
        if self.names[name] in self.model.touched or kind.name in UNSURE or not left:
            return "within the band"
        certain = kind in proven if kind.blocked else left <= FEW_SHARE * judged.blocks
        return "wrong" if certain else "within the band"

    def _lost_together(self, judged: Mapping[str, Judged], verdicts: Mapping[str, GgufVerdict]) -> dict[str, Finding]:
        """Tensors whose updates are too small to be told one by one, and together are not there."""
        near = {name: one.update for name, one in judged.items()
                if verdicts[name] == "within the band" and one.update.length}  # fmt: skip
        pooled = sum((update.scaled(update.weight) for update in near.values()), Update())
        if not pooled.length:
            return {}
        error = pooled.length**-0.5
        slack = UPDATE_TOLERANCE + 6 * error
        low, high = min(pooled.expected, 1.0), max(pooled.expected, 1.0)
        if low - slack <= pooled.k <= high + slack:
            return {}
        kind = NOT_APPLIED if abs(pooled.k) < slack else FLIPPED if pooled.k < 0 else SCALED
        return dict.fromkeys(near, Finding(kind, 0.0 if kind == NOT_APPLIED else pooled.k))

    def _how_misshapen(self, name: str) -> str:
        ours, theirs = self.model.converted[self.names[name]].shape, self.actual[name].shape
        text = f"is {list(theirs)} and must be {list(ours)}"
        if _bare(theirs) == _bare(ours[::-1]):
            return f"{text}: it is transposed"
        return f"{text}: another vocabulary" if name in (EMBEDDING, OUTPUT) and theirs[1:] == ours[1:] else text

    def _tensor(
        self, name: str, judged: Judged, verdict: GgufVerdict, limit: float, finding: Finding | None
    ) -> GgufTensorVerdict:
        update = judged.update
        return GgufTensorVerdict(
            name, self.actual[name].dtype.name, verdict, self.names[name] in self.model.touched, judged.elements,
            None if judged.nonfinite else judged.rmse, judged.our_rmse, limit, update.k if update.length else None,
            finding,
        )  # fmt: skip

    def _good_sentence(self, tensors: Sequence[GgufTensorVerdict]) -> str:
        return good_sentence(tensors, self._file_type, whole=self.route.whole)

    def _types(self, tensors: Sequence[GgufTensorVerdict]) -> Iterator[TypeLoss]:
        sizes = Counter[DType]()
        for tensor in tensors:
            info = self.actual[tensor.name]
            sizes[info.dtype] += info.nbytes
        for kind, nbytes in sizes.most_common():
            found = [tensor for tensor in tensors if tensor.type == kind.name]
            losses = [tensor.rmse for tensor in found if tensor.rmse is not None]
            mean, worst = (float(np.mean(losses)), max(losses)) if losses else (None, None)
            yield TypeLoss(kind.name, len(found), nbytes, mean, worst, typical(kind))

    @cached_property
    def _file_type(self) -> str | None:
        number = self.actual.keys.get("general.file_type")
        return next((label for label, kind in FILE_TYPES.items() if number and kind.number == number.data), None)

    def _notes(self, judged: Mapping[str, Judged]) -> Iterator[str]:
        yield from self.route.notes
        if OUTPUT in self.names and self.names[OUTPUT] == EMBEDDING:
            yield f"{OUTPUT} is stored though the model shares it with {EMBEDDING}"
        routed = sum(one.rerouted > 0 for one in judged.values())
        if routed:
            yield f"{routed} tensors have blocks that were converted by way of another 16-bit type"
        slow = sorted({kind for name in judged if (kind := self.actual[name].dtype.name) in SLOW})
        if slow and self.route.whole:
            yield f"of {', '.join(slow)}, which quantise slowly, a sample of rows was compared byte by byte"
        coarse = sum(not can_quantise(self.actual[name].dtype, self.imatrix) for name in judged)
        if coarse:
            yield f"{coarse} tensors are of types that need an imatrix to be quantised again: looser bounds apply"


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without leading ones, which GGUF leaves out or puts in."""
    first = next((place for place, axis in enumerate(shape) if axis != 1), len(shape))
    return shape[first:]


def open_gguf_job(
    model: GgufModel,
    path: Path,
    *,
    imatrix: Imatrix | None = None,
    workers: int | None = None,
    notes: Sequence[str] = (),
) -> GgufVerifyJob:
    """A verification of the GGUF at a path: the file, or the first of a split one."""
    actual = open_gguf(path)
    kind = actual.keys.get("general.type")
    if kind is not None and kind.data not in ("model", ""):
        raise UnsupportedError(
            f"{path}: holds no model but a GGUF of the type {kind.data!r:.40}", hint="give the GGUF of a model"
        )
    if not len(actual):
        raise FormatError(f"{path}: holds no tensors, only a vocabulary", hint="give the GGUF of the model")
    return GgufVerifyJob(model, actual, imatrix, workers or default_workers(), notes)
