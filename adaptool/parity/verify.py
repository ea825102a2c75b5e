"""Verifying a merge: is a checkpoint, whoever made it, what these adapters on this base give? And if not, why not?

Every tensor is read, in constant memory. A tensor is bit-equal, within the roundings of its recipe, or wrong; what
is wrong is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from adaptool.adapters.base import BaseModel, open_base
from adaptool.errors import MismatchError, NotFoundError, UnsupportedError
from adaptool.jobs import default_workers, run
from adaptool.merging.merged import Merged, Rounding, merge
from adaptool.parity.compare import Pair, measure_pairs
from adaptool.parity.defects import Defect, Evidence, Suspect, name_defects
from adaptool.parity.deltas import is_transpose
from adaptool.parity.diagnosis import Finding, diagnose
from adaptool.parity.judging import Judge, Judged, total
from adaptool.parity.pairing import Pairing, pair_up, still_wrapped
from adaptool.parity.scales import Origins
from adaptool.tensors.bnb import Bnb4bit
from adaptool.tensors.compute import single_threaded_blas
from adaptool.tensors.store import Store

FEW_ULPS = 4.0
"""More than this is not a rounding of the result but of the sums before it, whose terms cancel."""

Verdict = Literal["bit-equal", "within one rounding", "wrong"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True, slots=True)
class TensorVerdict:
    """What one tensor of the checkpoint is."""

    name: str
    """In the checkpoint."""
    merge_name: str
    """In the merge, whose names are the base's."""
    verdict: Verdict
    touched: bool
    """Whether an adapter changes it."""
    elements: int
    unequal: int
    wrong: int
    """Elements off by more than the recipe's roundings; some are forgiven where 16-bit arithmetic made them."""
    ulps: float
    """The largest distance, in units in the last place of the largest number the element went through."""
    place: tuple[int, int] | None
    """That element's (row, column)."""
    wrong_rows: tuple[int, int] | None
    equals: tuple[str, ...]
    """Other faithful recipes that give these very bits."""
    finding: Finding | None


@dataclass(frozen=True, slots=True)
class Verification:
    """What a checkpoint is."""

    verdict: Verdict
    sentence: str
    counts: Mapping[Verdict, int]
    """How many tensors are bit-equal, within one rounding, and wrong."""
    defects: tuple[Defect, ...]
    """The likeliest cause of the rest first."""
    tensors: tuple[TensorVerdict, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.verdict != "wrong"

    def worst(self, number: int) -> tuple[TensorVerdict, ...]:
        """The tensors furthest off, wrong ones first; none that is bit-equal."""
        rank = {"wrong": 0, "within one rounding": 1}
        off = [tensor for tensor in self.tensors if tensor.verdict in rank]
        return tuple(sorted(off, key=lambda tensor: (rank[tensor.verdict], -tensor.ulps, tensor.name))[:number])


@dataclass
class VerifyJob:
    """One verification. Iterate it to run it (each step yields the bytes done), then read ``report``."""

    merged: Merged
    actual: Store
    names: Mapping[str, str] | None = None
    """Name in the checkpoint → name in the merge; searched for where not given."""
    config: Mapping[str, Any] | None = None
    """The checkpoint's config.json."""
    adapters: Origins = ()
    """What the merge is of: lets a wrong scale be explained."""
    workers: int = field(default_factory=default_workers)

    def __post_init__(self) -> None:
        self.pairing: Pairing = pair_up(self.merged, self.actual, names=self.names, config=self.config)
        self._report: Verification | None = None
        if not self.pairing.pairs:
            raise MismatchError(
                f"{self.actual}: none of its {len(self.actual)} tensors is one of the merged model's",
                hint="this is an adapter: verify takes the merged model"
                if still_wrapped(self.actual)
                else "is it a checkpoint of the same architecture?",
            )

    @property
    def nbytes(self) -> int:
        """Bytes to be compared."""
        return sum(pair.rows * self.merged[pair.expected].row_nbytes for pair in self.pairing.pairs)

    @property
    def report(self) -> Verification:
        """What was found, once the job has run to its end."""
        assert self._report is not None, "the job has not run to its end"
        return self._report

    def __iter__(self) -> Iterator[int]:
        judged: dict[Pair, Judged] = {}
        judge = Judge(self.merged, self.actual)
        with single_threaded_blas():
            for done in measure_pairs(self.pairing.pairs, self.merged, judge, self.workers):
                if done.pair is not None:
                    judged[done.pair] = total(done.parts)
                yield done.nbytes
            self._report = self._conclude(judged)

    def _conclude(self, judged: Mapping[Pair, Judged]) -> Verification:
        verdicts = {pair: _verdict(judged[pair]) for pair in self.pairing.pairs}
        unmoved = self._unmoved(judged, verdicts)
        verdicts |= dict.fromkeys(unmoved, "wrong")
        wrong = [pair for pair, verdict in verdicts.items() if verdict == "wrong"]
        findings = dict(run(lambda pair: (pair, self._diagnosed(pair, judged[pair])), wrong, self.workers))
        found = {pair: findings[pair] for pair in wrong}  # they come as they are finished
        tensors = tuple(
            self._tensor(pair, verdicts[pair], judged[pair], found.get(pair)) for pair in self.pairing.pairs
        )
        defects = name_defects(self._evidence(found))
        verdict = _overall(tensors) if not defects else "wrong"
        sentence = defects[0].sentence if defects else _good_sentence(tensors)
        counts: dict[Verdict, int] = dict.fromkeys(VERDICTS, 0) | Counter(tensor.verdict for tensor in tensors)
        pairing = self.pairing
        return Verification(
            verdict, sentence, counts, defects, tensors, pairing.missing, pairing.unexpected, pairing.notes
        )  # fmt: skip

    def _unmoved(self, judged: Mapping[Pair, Judged], verdicts: Mapping[Pair, Verdict]) -> list[Pair]:
        """Tensors each within a rounding that together show that updates were lost: too small to tell one by one."""
        close = [pair for pair, verdict in verdicts.items()
                 if verdict == "within one rounding" and pair.expected in self.merged.plan.patches]  # fmt: skip
        return close if close and total([judged[pair] for pair in close]).drifts else []

    def _diagnosed(self, pair: Pair, judged: Judged) -> Finding:
        return diagnose(self.merged, self.actual, pair, judged, self.adapters)

    def _tensor(self, pair: Pair, verdict: Verdict, judged: Judged, finding: Finding | None) -> TensorVerdict:
        return TensorVerdict(
            pair.actual, pair.expected, verdict, pair.expected in self.merged.changed, judged.elements, judged.unequal,
            judged.wrong, judged.worst, judged.place, judged.wrong_rows, tuple(sorted(judged.equals or ())), finding,
        )  # fmt: skip

    def _evidence(self, found: Mapping[Pair, Finding]) -> Evidence:
        merged, pairing = self.merged, self.pairing
        shared = {pair.actual for pair in pairing.pairs if pair.expected == pairing.shared_head}
        wrong = [(pair.expected, Suspect(pair.expected, finding)) for pair, finding in found.items()
                 if pair.actual not in shared]  # fmt: skip
        patches, changed = merged.plan.patches, merged.changed
        return Evidence(
            patched=tuple(dict.fromkeys(pair.expected for pair in pairing.pairs if pair.expected in patches)),
            untouched=sum(pair.expected not in changed for pair in pairing.pairs),
            wrong_patched=tuple(suspect for name, suspect in wrong if name in patches),
            wrong_replaced=tuple(suspect for name, suspect in wrong if name in changed and name not in patches),
            wrong_untouched=tuple(suspect for name, suspect in wrong if name not in changed),
            missing=pairing.missing,
            unexpected=pairing.unexpected,
            misshapen=tuple((pair.expected, self._how_misshapen(pair)) for pair in pairing.misshapen),
            shared_head=pairing.shared_head if shared & {pair.actual for pair in found} else None,
            wrapped=still_wrapped(self.actual),
        )

    def _how_misshapen(self, pair: Pair) -> str:
        ours, theirs = self.merged[pair.expected].shape, self.actual[pair.actual].shape
        text = f"is {list(theirs)} and must be {list(ours)}"
        return f"{text}: it is transposed" if is_transpose(self.merged, self.actual, pair) else text


def verify(
    merged: Merged,
    actual: Store,
    *,
    config: Mapping[str, Any] | None = None,
    adapters: Origins = (),
    workers: int | None = None,
) -> Verification:
    """Check a checkpoint against the merge it should be, whatever its names, types, sharding and writer.

    ``config`` is the checkpoint's config.json, ``adapters`` what was merged: both make the diagnosis sharper.
    Raises MismatchError where nothing can be compared, UnsupportedError for a checkpoint quantised afterwards.
    """
    job = VerifyJob(merged, actual, None, config, adapters, workers or default_workers())
    for _ in job:
        pass
    return job.report


def verify_store(
    merged: Merged, output_names: Mapping[str, str], actual: Store, workers: int, adapters: Origins = ()
) -> Verification:
    """The same for a checkpoint whose names are known: ``output_names`` maps its names to the merge's."""
    job = VerifyJob(merged, actual, output_names, None, adapters, workers)
    for _ in job:
        pass
    return job.report


def open_job(
    base: BaseModel, adapters: Origins, checkpoint: Path, *, rounding: Rounding = "once", workers: int | None = None
) -> VerifyJob:
    """A verification of the checkpoint at a path: a folder, a weights file or an index, safetensors or PyTorch.

    Raises what ``merge`` raises where these adapters cannot be merged at all, and UnsupportedError for a checkpoint
    that was quantised after the merge.
    """
    merged = merge(base, adapters, rounding=rounding)
    model = _open_checkpoint(checkpoint)
    return VerifyJob(merged, model.store, None, model.config, adapters, workers or default_workers())


def _open_checkpoint(path: Path) -> BaseModel:
    try:
        model = open_base(path)
    except UnsupportedError as error:
        raise UnsupportedError(error.message, hint="verify the 16-bit model, before it is quantised") from error
    except NotFoundError as error:
        raise NotFoundError(error.message, hint="MERGED is a merged model: its folder or its weights file") from error
    if isinstance(model.store, Bnb4bit):
        raise UnsupportedError(
            f"{path} is 4-bit: what a merge gave was quantised afterwards, and cannot be checked any more",
            hint="verify the 16-bit model, before it is quantised",
        )
    return model


def _verdict(judged: Judged) -> Verdict:
    if judged.unequal == 0:
        return "bit-equal"
    right = (judged.wrong == 0 and not judged.drifts) or judged.coarsely_right
    return "within one rounding" if right else "wrong"


def _overall(tensors: tuple[TensorVerdict, ...]) -> Verdict:
    return "bit-equal" if all(tensor.verdict == "bit-equal" for tensor in tensors) else "within one rounding"


def _good_sentence(tensors: tuple[TensorVerdict, ...]) -> str:
    near = [tensor for tensor in tensors if tensor.verdict == "within one rounding"]
    if not near:
        return f"all {len(tensors)} tensors are bit for bit what the merge gives"
    same = set.intersection(*(set(tensor.equals) for tensor in near))
    if same:
        return f"{len(near)} of {len(tensors)} tensors are exactly what {min(same, key=len)} gives, the rest bit-equal"
    share = sum(tensor.unequal for tensor in near) / sum(tensor.elements for tensor in near)
    coarse = sum(tensor.wrong > 0 for tensor in near)
    if coarse:
        return f"{coarse} of {len(tensors)} tensors are this merge computed in 16-bit arithmetic ({share:.2%} differ)"
    worst = max(tensor.ulps for tensor in near)
    by = f"{worst:.1f} ulp at most" if worst <= FEW_ULPS else "the round-off of float32 sums"
    return (
        f"{len(near)} of {len(tensors)} tensors are within one rounding of what the merge gives "
        f"({share:.2%} of their elements differ, by {by}), the rest bit-equal"
    )
