"""From what is wrong with each tensor to what is wrong with the checkpoint: one sentence a person can act on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median

from adaptool.adapters.names import layer_of, projection_of
from adaptool.parity import diagnosis as kinds
from adaptool.parity.diagnosis import Finding

MOST_NAMED = 10
"""Tensors a defect lists."""

BASE_SHARE = 0.5
"""Of the tensors no adapter touches: more than this many off, and the base is another one."""


@dataclass(frozen=True, slots=True)
class Defect:
    """One thing that is wrong, however many tensors show it."""

    kind: str
    sentence: str
    tensors: int
    names: tuple[str, ...]
    """The first of them."""
    k: float | None = None
    """The scale at which the update was applied, where that is the defect: the median over the tensors."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A tensor that is wrong: its name in the merge, and what was found."""

    name: str
    finding: Finding


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of a checkpoint, by the merge's names."""

    patched: tuple[str, ...]
    """Tensors the adapters change by an update."""
    untouched: int
    """How many tensors they do not touch."""
    wrong_patched: tuple[Suspect, ...]
    wrong_replaced: tuple[Suspect, ...]
    wrong_untouched: tuple[Suspect, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[tuple[str, str], ...]
    """(name, how its shape differs)."""
    shared_head: str | None
    wrapped: bool


def name_defects(evidence: Evidence) -> tuple[Defect, ...]:
    """What is wrong, the likeliest cause of the rest first; empty where nothing is."""
    return tuple(_defects(evidence))


def _defects(evidence: Evidence) -> Iterator[Defect]:
    if evidence.wrapped:
        yield Defect(
            "not merged", "it was saved with the adapter beside the weights: merge_and_unload was never called", 0, ()
        )
    yield from _shape_defects(evidence)
    if evidence.shared_head is not None:
        yield defect(
            "tied head",
            "the output head is the embedding's tensor, so an update of one reached both: "
            f"{evidence.shared_head} should be a tensor of its own (PEFT's merge of tied models does this)",
            [evidence.shared_head],
        )  # fmt: skip
    broken = [s for s in (*evidence.wrong_patched, *evidence.wrong_replaced, *evidence.wrong_untouched)
              if s.finding.kind == kinds.NOT_FINITE]  # fmt: skip
    if broken:
        yield defect(kinds.NOT_FINITE, f"NaN or Inf in {counted(broken)}", names_of(broken))
    stray = [s for s in evidence.wrong_untouched if s not in broken]
    patched = [s for s in evidence.wrong_patched if s not in broken]
    turned = [s for s in (*patched, *stray) if s.finding.kind == kinds.TRANSPOSED]
    if turned:
        yield defect(
            kinds.TRANSPOSED, f"saved transposed: {group(names_of(turned), evidence.patched)}", names_of(turned)
        )
    stray, patched = [s for s in stray if s not in turned], [s for s in patched if s not in turned]
    if stray and len(stray) > BASE_SHARE * evidence.untouched:
        yield _other_base(evidence, stray)
        patched = [s for s in patched if s.finding.kind in (*kinds.SCALES, kinds.NOT_APPLIED)]
        stray = []
    yield from _update_defects(evidence, patched)
    if stray:
        yield defect(
            kinds.DIFFERS, f"not the base's, though the adapter does not touch {'it' if len(stray) == 1 else 'them'}: "
            f"{group(names_of(stray), ())}", names_of(stray),
        )  # fmt: skip
    yield from _replaced_defects([s for s in evidence.wrong_replaced if s not in broken])


def _shape_defects(evidence: Evidence) -> Iterator[Defect]:
    if evidence.misshapen:
        name, how = evidence.misshapen[0]
        sentence = f"{counted(evidence.misshapen)} of another shape: {name} {how}"
        turned = all("transposed" in how for _, how in evidence.misshapen)
        names = [name for name, _ in evidence.misshapen]
        yield defect(kinds.TRANSPOSED if turned else "shape differs", sentence, names)
    if evidence.missing:
        sentence = f"{counted(evidence.missing)} missing: {group(evidence.missing, ())}"
        yield defect("tensor missing", sentence, evidence.missing)
    if evidence.unexpected and not evidence.wrapped:
        sentence = f"{counted(evidence.unexpected)} that neither base nor adapter has: {group(evidence.unexpected, ())}"
        yield defect("unexpected tensor", sentence, evidence.unexpected)


def _other_base(evidence: Evidence, stray: Sequence[Suspect]) -> Defect:
    sizes = [s.finding.residual for s in stray if s.finding.residual is not None]
    by = f" (by {median(sizes):.1%} of their norm)" if sizes else ""
    return defect(
        "base differs",
        f"it was merged into another base: {len(stray)} of the {evidence.untouched} tensors that the adapter does not "
        f"touch differ from the base's{by}",
        names_of(stray),
    )


def _update_defects(evidence: Evidence, wrong: Sequence[Suspect]) -> Iterator[Defect]:
    """What happened to the updates, what most tensors show first."""
    for kind, reason, suspects in sorted(_grouped(wrong), key=lambda found: -len(found[2])):
        names = names_of(suspects)
        partly = len(suspects) < len(evidence.patched)
        where = group(names, evidence.patched) if partly else "all it changes"
        scales = [s.finding.k for s in suspects if s.finding.k is not None]
        sentence = _sentence(kind, reason, where, scales, partly=partly)
        named = "partly applied" if (partly and kind == kinds.NOT_APPLIED) or kind == kinds.SOME_ROWS else kind
        k = float(f"{median(scales):.4g}") if scales else None
        yield defect(named, sentence, names, k)


def _grouped(wrong: Sequence[Suspect]) -> Iterator[tuple[str, str, list[Suspect]]]:
    """Suspects by what happened and why: (kind, reason, suspects); a reason is one that all of them share."""
    by_kind: dict[str, list[Suspect]] = {}
    for suspect in wrong:
        kind = kinds.SCALED if suspect.finding.kind in kinds.SCALES else suspect.finding.kind
        by_kind.setdefault(kind, []).append(suspect)
    for kind, suspects in by_kind.items():
        for reason, some in _by_reason(suspects):
            found = {suspect.finding.kind for suspect in some}
            yield found.pop() if len(found) == 1 else kind, reason, some


def _by_reason(suspects: list[Suspect]) -> Iterator[tuple[str, list[Suspect]]]:
    """One scale or one mistake explains them all, or else the mistake that explains most does, and so on."""
    while suspects:
        tried = Counter(reason for s in suspects for reason in s.finding.reasons)
        if _same_scale([s.finding.k for s in suspects if s.finding.k is not None]) or not tried:
            yield " or ".join(reason for reason, count in tried.items() if count == len(suspects)), suspects
            return
        best = max(tried.values())
        reason = next(reason for reason, count in tried.items() if count == best)
        some = [s for s in suspects if reason in s.finding.reasons]
        shared = [r for r in tried if all(r in s.finding.reasons for s in some)]
        yield " or ".join(shared), some
        suspects = [s for s in suspects if s not in some]


def _same_scale(values: Sequence[float]) -> bool:
    return bool(values) and max(values) - min(values) < kinds.SAME_SCALE * max(map(abs, values))


def _sentence(kind: str, reason: str, where: str, scales: Sequence[float], *, partly: bool) -> str:
    because = f": {reason}" if reason else ""
    if kind == kinds.NOT_APPLIED:
        if partly:
            return f"the adapter was applied only in part: not in {where}"
        return "the adapter was not applied: the tensors it changes are the base's"
    if kind == kinds.SCALED:
        return f"the adapter was applied at {_range(scales)}× its scale in {where}{because}"
    return {
        kinds.TWICE: f"the adapter was applied twice in {where}{f' (or {reason})' if reason else ''}",
        kinds.FLIPPED: f"the adapter was subtracted, not added, in {where}",
        kinds.OTHER: f"another adapter was merged: the update is not this one's in {where}",
        kinds.EXTRA: f"something else was merged as well: there is more than this adapter's update in {where}",
        kinds.UNRELATED: f"what was added is not this adapter's update, nor like any adapter's, in {where}",
        kinds.BASE: f"the update is there, but on other weights than the base's, in {where}{because}",
        kinds.NO_MAGNITUDE: f"DoRA's magnitude was ignored in {where}{because}",
        kinds.NOT_TRUNCATED: f"KaSA's truncation was ignored in {where}{because}",
        kinds.LEFT_OUT: f"one of the adapters was left out in {where}{because}",
        kinds.SWAPPED: f"the update was added transposed in {where}",
        kinds.OWN: f"the update is made of this adapter's factors, but not as its config says, in {where}",
        kinds.SOME_ROWS: f"the adapter was applied to some rows only in {where}{because}",
        kinds.FEW: f"some elements are damaged, and the rest is the merge, in {where}",
        kinds.ROUGH: f"the update is there, but more coarsely computed than the type allows, in {where}",
        kinds.DIFFERS: f"something else is in {where}",
    }[kind]


def _replaced_defects(wrong: Sequence[Suspect]) -> Iterator[Defect]:
    kept = [s for s in wrong if s.finding.kind == kinds.NOT_REPLACED]
    other = [s for s in wrong if s.finding.kind != kinds.NOT_REPLACED]
    if kept:
        names = names_of(kept)
        sentence = f"tensors that the adapter saved whole were not taken from it: {group(names, ())}"
        yield defect(kinds.NOT_REPLACED, sentence, names)
    if other:
        names = names_of(other)
        yield defect(
            kinds.DIFFERS, f"tensors that the adapter saved whole hold something else: {group(names, ())}", names
        )


def defect(kind: str, sentence: str, names: Sequence[str], k: float | None = None) -> Defect:
    """A defect of the tensors called ``names``, of which the first few are kept."""
    return Defect(kind, sentence, len(names), tuple(names[:MOST_NAMED]), k)


def names_of(suspects: Iterable[Suspect]) -> list[str]:
    """What they are called."""
    return [suspect.name for suspect in suspects]


def counted(items: Sequence[object]) -> str:
    """How many tensors, in words."""
    return f"{len(items)} tensor{'' if len(items) == 1 else 's'}"


def _range(values: Sequence[float]) -> str:
    return f"{median(values):.3g}" if _same_scale(values) else f"{min(values):.3g} to {max(values):.3g}"


def group(names: Sequence[str], among: Sequence[str]) -> str:
    """Names in words: "v_proj in all layers", "layers 5–9", where that is exactly what sets them apart in ``among``."""
    chosen, rest = [_place(name) for name in names], [_place(name) for name in among if name not in set(names)]
    layers, projections = {layer for layer, _ in chosen}, {projection for _, projection in chosen}
    if among and None not in layers:
        if not any(projection in projections for _, projection in rest):
            return f"{_listed(sorted(projections))} in all layers"
        if not any(layer in layers for layer, _ in rest):
            return f"layer{'s' if len(layers) > 1 else ''} {_spans(layers)}"
        if not any(layer in layers and projection in projections for layer, projection in rest):
            return f"{_listed(sorted(projections))} in layer{'s' if len(layers) > 1 else ''} {_spans(layers)}"
    return _listed(list(names))


def _place(name: str) -> tuple[int | None, str]:
    module = name.rpartition(".")[0] if name.endswith((".weight", ".bias")) else name
    return layer_of(name), projection_of(module)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _spans(layers: Iterable[int | None]) -> str:
    """1, 2, 3, 7 → "1–3, 7"."""
    ordered = sorted(layer for layer in layers if layer is not None)
    runs = [[layer for _, layer in run] for _, run in groupby(enumerate(ordered), key=lambda item: item[1] - item[0])]
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
