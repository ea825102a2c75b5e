"""From what is wrong with each tensor of a GGUF to what is wrong with the file, in sentences a person can act on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from adaptool.parity.defects import (
    BASE_SHARE,
    Defect,
    Evidence,
    Suspect,
    counted,
    defect,
    group,
    name_defects,
    names_of,
)
from adaptool.parity.diagnosis import DIFFERS, FEW, NOT_FINITE, UNRELATED
from adaptool.parity.gguf_diagnosis import ROWS, SWAPPED, WEIGHTS_SCALED
from adaptool.parity.gguf_placings import EXPERTS, ORDER, SHIFTED, TRANSPOSED
from adaptool.parity.gguf_updates import UPDATES

MISSING, UNEXPECTED, SHAPE = "tensor missing", "unexpected tensor", "shape differs"


@dataclass(frozen=True, slots=True)
class GgufEvidence:
    """All that was found of a file's tensors, by its own names."""

    compared: tuple[str, ...]
    touched: tuple[str, ...]
    """Those of them that the merge changes."""
    wrong: tuple[Suspect, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[tuple[str, str], ...]
    """(name, how its shape differs)."""
    own_head: str | None = None
    """The output head, where the base shares it with the embedding and the merge must not."""


def tensor_defects(evidence: GgufEvidence) -> Iterator[Defect]:
    """What is wrong, the likeliest cause of the rest first."""
    wrong = list(evidence.wrong)
    strange = [suspect for suspect in wrong if suspect.finding.kind in (UNRELATED, DIFFERS)]
    untouched = len(evidence.compared) - len(evidence.touched)
    stray = [suspect for suspect in strange if suspect.name not in evidence.touched]
    other_model = len(stray) > max(1, BASE_SHARE * untouched)
    if other_model:
        what = "the tensors that the adapter does not touch" if evidence.touched else "its tensors"
        sentence = f"it was made from another model: {len(stray)} of {untouched} of {what} are not this one's"
        yield defect("base differs", sentence, names_of(stray))
    yield from _of_updates(evidence, [suspect for suspect in wrong if suspect.finding.kind in UPDATES])
    yield from _of_shapes(evidence)
    for kind, reason, suspects in _grouped([s for s in wrong if s.finding.kind not in UPDATES]):
        if other_model and kind in (UNRELATED, DIFFERS):
            continue
        yield defect(kind, _sentence(kind, reason, suspects, evidence), names_of(suspects), suspects[0].finding.k)


def _of_shapes(evidence: GgufEvidence) -> Iterator[Defect]:
    if evidence.misshapen:
        name, how = evidence.misshapen[0]
        names = [name for name, _ in evidence.misshapen]
        yield defect(SHAPE, f"{counted(names)} of another shape: {name} {how}", names)
    if evidence.missing:
        where = group(evidence.missing, evidence.compared)
        tied = evidence.own_head and evidence.own_head in evidence.missing
        why = ": the adapter changes the embedding or the head alone, which this file has as one" if tied else ""
        yield defect(MISSING, f"{counted(evidence.missing)} missing: {where}{why}", evidence.missing)
    if evidence.unexpected:
        where = group(evidence.unexpected, ())
        yield defect(
            UNEXPECTED, f"{counted(evidence.unexpected)} that the model does not have: {where}", evidence.unexpected
        )


def _of_updates(evidence: GgufEvidence, wrong: Sequence[Suspect]) -> Iterator[Defect]:
    """The adapter not applied, or at another scale: as of any merged checkpoint."""
    untouched = len(evidence.compared) - len(evidence.touched)
    yield from name_defects(
        Evidence(evidence.touched, untouched, tuple(wrong), (), (), (), (), (), None, wrapped=False)
    )


def _grouped(wrong: Sequence[Suspect]) -> Iterator[tuple[str, str, list[Suspect]]]:
    """Suspects by what is wrong with them, what most show first; swapped ones each with what it holds."""
    found: dict[tuple[str, str], list[Suspect]] = {}
    for suspect in wrong:
        reason = suspect.finding.reasons[0] if suspect.finding.reasons else ""
        alone = suspect.finding.kind in (SWAPPED, ROWS, FEW)
        found.setdefault((suspect.finding.kind, "" if alone else reason), []).append(suspect)
    for (kind, reason), suspects in sorted(found.items(), key=lambda item: -len(item[1])):
        yield kind, reason, suspects


def _sentence(kind: str, reason: str, suspects: Sequence[Suspect], evidence: GgufEvidence) -> str:
    if kind == SWAPPED:
        return _swaps(suspects)
    names = names_of(suspects)
    where = group(names, evidence.compared)
    first = suspects[0].finding.reasons[0] if suspects[0].finding.reasons else ""
    scale = suspects[0].finding.k or 0.0
    return {
        NOT_FINITE: f"NaN or Inf in {where}",
        ORDER: f"the rows of {where} are {reason}",
        EXPERTS: f"the experts of {where} are {reason}",
        TRANSPOSED: f"{where} {'is' if len(names) == 1 else 'are'} transposed",
        SHIFTED: f"the norms {where} are {reason}",
        ROWS: f"the rows of {where} are in another order: in {names[0]} {first}",
        WEIGHTS_SCALED: f"the weights of {where} are {scale:.3g} times the model's",
        FEW: f"damaged blocks in {where}, and the rest is the model's: in {names[0]} {first}",
        UNRELATED: f"{where} {'has' if len(names) == 1 else 'have'} nothing in common with the model's",
        DIFFERS: f"{where} {'is' if len(names) == 1 else 'are'} not the model's, by more than the type loses",
    }[kind]


def _swaps(suspects: Sequence[Suspect]) -> str:
    held = {suspect.name: suspect.finding.reasons[0] for suspect in suspects}
    mutual = [(name, other) for name, other in held.items() if held.get(other) == name and name < other]
    if 2 * len(mutual) == len(held):
        pairs = [f"{name} and {other}" for name, other in mutual]
        return f"exchanged: {_listed(pairs)}"
    placed = [f"{name} holds the model's {other}" for name, other in held.items()]
    return f"in the wrong place: {_listed(placed)}"


def _listed(items: Sequence[str]) -> str:
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")
