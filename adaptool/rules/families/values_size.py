"""VAL030–VAL049: how large the numbers are, beside each other and at all."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from adaptool.rules.draft import Array, Draft, numbers, tensors
from adaptool.rules.families.values import F16_LARGEST
from adaptool.rules.finding import Problem, Severity
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject
from adaptool.rules.weights.statistics import Update
from adaptool.rules.weights.untrained import and_more, trained
from adaptool.summary.contents import place_of

SPIKE: Mapping[Severity, float] = {"error": 1000.0, "warning": 100.0}
"""Times the median of its siblings; of 9 700 tensors of 486 healthy adapters none reached 10 times."""

IDLE_SCALE = 1e-6
"""A module that an absurd rank or alpha mutes is no measure for the others."""

FEWEST_VALUES = 16
"""Smaller tensors (GLoRA's scalars) differ by chance."""

SMALL_SPIKE = 0.05
"""A value within what trained weights have: out of line with its siblings, and not yet an error."""

SIBLINGS = 3
"""Fewer of one projection, and all the adapter's parts of that kind are compared."""

LARGE_WEIGHT = 1e4
LARGE_ROW = 100.0
"""RMS of a full matrix: embeddings reach 10, and norms, which are vectors, are not asked."""

LARGE_FACTOR, LARGE_UPDATE, ABSURD_UPDATE = 2.0, 1.0, 100.0
"""RMS. A model's weights are about 0.02, healthy updates (of 3 400 modules) below 0.1, and a factor's initial values
at most 1."""

OUTLIER = 6.0
"""Robust z-score: see VAL040."""

FEWEST_LAYERS = 8
SCATTER = 0.1
"""The least scatter of a logarithm that is believed: in a family closer than this, small differences say nothing."""


@dataclass(frozen=True, slots=True)
class Sized:
    """Something with a size, among others of its kind."""

    key: str
    kind: tuple[str, str]
    """(part, projection): its nearest siblings share both, its wider family the part."""
    size: float


@dataclass(frozen=True, slots=True)
class Beyond:
    """A tensor or an update far larger than usual."""

    key: str
    size: float
    usual: float
    verb: str


@rule("VAL030", "error", "a tensor out of all proportion", needs=("adapter", "values"),
      breaks=lambda draft: _scaled(draft, 5000.0))  # fmt: skip
def spike(subject: Subject) -> Iterator[Problem]:
    """The largest value of a tensor, or the norm of a module's update, is 1000 times what it is in its siblings (the
    same part of the same projection in other layers; 100 times is a warning). Layers of one adapter never differ so:
    training diverged there, a scale was applied twice, or the file was tampered with. The model's output is destroyed.

    Fix: take an earlier checkpoint, or look at what last wrote that tensor.
    """
    found: dict[Severity, list[Beyond]] = {"error": [], "warning": []}
    for entry in _out_of_proportion(subject).values():
        found["error" if entry.size >= max(SPIKE["error"] * entry.usual, SMALL_SPIKE) else "warning"].append(entry)
    for severity, entries in found.items():
        if entries:
            worst = max(entries, key=lambda entry: entry.size / entry.usual)
            yield Problem(
                f"{worst.key} {worst.verb} {worst.size:.4g}, {worst.size / worst.usual:,.0f} times the "
                f"{worst.usual:.2g} of its siblings{and_more(entries)}",
                subject.weights_name, tensors=tuple(entry.key for entry in entries), severity=severity,
            )  # fmt: skip


@rule("VAL031", "error", "absurdly large values", needs=("adapter", "values"),
      breaks=tensors(lora_B=lambda B: B * np.float32(1e8)))  # fmt: skip
def absurd(subject: Subject) -> Iterator[Problem]:
    """A model's weights are about 0.02. A value beyond 65504 becomes Inf in float16, which many runtimes compute in;
    an update whose typical element is in the hundreds leaves nothing of the base. Somewhat smaller ones are a warning.

    Fix: take an earlier checkpoint; look at lora_alpha and at what rescaled the weights.
    """
    figures = subject.statistics.tensors
    large = {key: size for key, moments in figures.items() if (size := moments.absmax) > LARGE_WEIGHT}
    weights = {s.key.text: large[s.key.text] for s in subject.saved if s.key.text in large and s.role != "frozen"}
    rows = {
        saved.key.text: figures[saved.key.text].rms
        for saved in subject.saved
        if saved.role in ("copy", "carried") and len(saved.info.shape) > 1 and saved.key.text in figures
    }
    loud = [update for update in subject.statistics.updates if (update.rms or 0) > LARGE_UPDATE]
    updates = {update.b: update.rms or 0.0 for update in loud}
    grown = {u.b for u in loud if max(figures[u.a].rms, figures[u.b].rms) > LARGE_FACTOR}
    cases: tuple[tuple[Severity, Mapping[str, float], Callable[[str, float], bool], str], ...] = (
        ("error", weights, lambda _, size: size > F16_LARGEST, "holds {:.4g}, which is Inf in float16"),
        ("error", updates, lambda _, size: size >= ABSURD_UPDATE, "makes an update of {:.4g} per element"),
        ("warning", weights, lambda _, size: LARGE_WEIGHT < size <= F16_LARGEST, "holds {:.4g}"),
        ("warning", updates, lambda key, size: size < ABSURD_UPDATE and key in grown,
         "makes an update of {:.3g} per element"),
        ("warning", rows, lambda _, size: size > LARGE_ROW, "has values of {:.4g} on average"),
    )  # fmt: skip
    said = set(_out_of_proportion(subject))
    said.update(update.b for update in loud if update.a in said)
    for severity, sizes, beyond, words in cases:
        keys = tuple(key for key, size in sizes.items() if key not in said and beyond(key, size))
        said.update(keys)
        if keys:
            worst = max(keys, key=lambda key: sizes[key])
            yield Problem(
                f"{worst} {words.format(sizes[worst])}{and_more(keys)}", subject.weights_name, tensors=keys,
                severity=severity,
            )  # fmt: skip


@rule("VAL032", "warning", "one value outweighs all others", needs=("adapter", "values"),
      breaks=tensors(lora_A=lambda A: _with_peak(A)))  # fmt: skip
def lone_peak(subject: Subject) -> Iterator[Problem]:
    """A single element holds more than half of a tensor's energy (Σx²). Trained tensors spread it: a flipped exponent
    bit, or a planted value, looks like this.

    Fix: fetch the file again, and compare its checksum with the one it was published with.
    """
    figures = subject.statistics.tensors
    keys = tuple(
        saved.key.text
        for saved in trained(subject)
        if (moments := figures[saved.key.text]).size >= 256 and len(saved.info.shape) > 1
        and moments.zeros < moments.size / 2 and moments.absmax * moments.absmax > moments.squares / 2
    )  # fmt: skip
    if keys:
        yield Problem(
            f"one value of {keys[0]}, {figures[keys[0]].absmax:.4g}, outweighs its other "
            f"{figures[keys[0]].size - 1}{and_more(keys)}",
            subject.weights_name, tensors=keys,
        )  # fmt: skip


@rule("VAL040", "info", "an update unlike those of other layers", needs=("adapter", "values"), default=False,
      breaks=lambda draft: _unlike(draft))  # fmt: skip
def outliers(subject: Subject) -> Iterator[Problem]:
    """A layer whose update is much stronger or weaker than the same projection's elsewhere, or spends itself in far
    fewer directions, is where memorised data and planted behaviour have been found; it is also what some layers are
    like. An advisory: a robust z-score (median and MAD) of log ‖ΔW‖_F or log stable rank among at least 8 layers is
    beyond 6. Its false positives, measured on 1764 modules of 12 healthy adapters (SmolLM2 at ranks 4 to 16, LoRA,
    rsLoRA and DoRA, 20 to 60 steps; a T5-large of rank 16 from the hub): none; beyond 4 are 0.4 %, beyond 3.5 0.9 %.

    Fix: look at it with adaptool inspect --weights; there may be nothing to fix.
    """
    families: dict[tuple[str, str], list[Update]] = {}
    for update in subject.statistics.updates:
        if update.stable_rank is not None and update.frobenius:
            place = place_of(update.module)
            families.setdefault((place.stack, place.name), []).append(update)
    for measure, name in ((_log_norm, "norm"), (_log_stable_rank, "stable rank")):
        scores = [found for family in families.values() for found in _scores(family, measure)]
        far = sorted((found for found in scores if abs(found[1]) > OUTLIER), key=lambda found: -abs(found[1]))
        if far:
            update, score, usual = far[0]
            yield Problem(
                f"the {name} of {update.module} is {np.exp(measure(update)):.3g} where {np.exp(usual):.3g} is usual, "
                f"{abs(score):.0f} deviations away{and_more(far)}",
                subject.weights_name, tensors=tuple(key for update, _, _ in far for key in (update.a, update.b)),
            )  # fmt: skip


def _out_of_proportion(subject: Subject) -> Mapping[str, Beyond]:
    """By key: what is beyond its siblings; an update by the key of its B, and only where no factor explains it."""
    return subject.once("out of proportion", lambda: _compared(subject))


def _compared(subject: Subject) -> Mapping[str, Beyond]:
    figures, updates = subject.statistics.tensors, subject.statistics.updates
    largest = [
        Sized(saved.key.text, (saved.key.part, saved.place.name), figures[saved.key.text].absmax)
        for saved in trained(subject)
        if saved.key.module and saved.key.part and figures[saved.key.text].size >= FEWEST_VALUES
    ]
    norms = [
        Sized(update.b, ("ΔW", place_of(update.module).name), update.frobenius or 0.0)
        for update in updates
        if abs(update.scale) > IDLE_SCALE  # the config is at fault, and CFG202 or CFG206 say so
    ]
    halves = {update.b: update.a for update in updates}
    found = {one.key: Beyond(one.key, one.size, usual, "reaches") for one, usual in _beyond_siblings(largest)}
    for one, usual in _beyond_siblings(norms):
        if one.key not in found and halves[one.key] not in found:
            found[one.key] = Beyond(one.key, one.size, usual, "makes an update of norm")
    return found


def _beyond_siblings(items: Iterable[Sized]) -> Iterator[tuple[Sized, float]]:
    """What is larger than its siblings' median by the smaller factor of ``SPIKE``, and that median."""
    near: dict[tuple[str, str], list[Sized]] = {}
    wide: dict[str, list[float]] = {}
    for one in items:
        if one.size > 0:
            near.setdefault(one.kind, []).append(one)
            wide.setdefault(one.kind[0], []).append(one.size)
    ordered = {part: sorted(sizes) for part, sizes in wide.items()}
    for kind, family in near.items():
        sizes = sorted(one.size for one in family) if len(family) >= SIBLINGS else ordered[kind[0]]
        for one in family:
            if len(sizes) > 1 and one.size >= SPIKE["warning"] * (usual := _median_without(sizes, one.size)):
                yield one, usual


def _median_without(ordered: Sequence[float], value: float) -> float:
    """The median of sorted numbers but one of them."""
    at = bisect_left(ordered, value)
    count = len(ordered) - 1
    low, high = (ordered[middle + (middle >= at)] for middle in ((count - 1) // 2, count // 2))
    return (low + high) / 2


def _scores(family: list[Update], measure: Callable[[Update], float]) -> Iterator[tuple[Update, float, float]]:
    """Every update, how many robust standard deviations it is from the median, and that median."""
    if len(family) < FEWEST_LAYERS:
        return
    values = [measure(update) for update in family]
    usual = median(values)
    scatter = max(1.4826 * median(abs(value - usual) for value in values), SCATTER)
    for update, value in zip(family, values, strict=True):
        yield update, (value - usual) / scatter, usual


def _log_norm(update: Update) -> float:
    return float(np.log(update.frobenius or 1.0))


def _log_stable_rank(update: Update) -> float:
    return float(np.log(update.stable_rank or 1.0))


def _scaled(draft: Draft, factor: float) -> None:
    """The first module's B, ``factor`` times."""
    key = next(key for key in draft.tensors if ".lora_B." in key)
    draft.tensors[key] = draft.tensors[key] * np.float32(factor)


def _with_peak(array: Array) -> Array:
    spiked = array.copy()
    spiked.flat[5] = 3.0
    return spiked


def _unlike(draft: Draft) -> None:
    """Ten layers, the last of which is twenty times as strong."""
    for key in [key for key in draft.tensors if ".layers.1." in key]:
        for layer in range(2, 10):
            array = numbers(draft.tensors[key].shape, layer, 0.05)
            draft.tensors[key.replace(".layers.1.", f".layers.{layer}.")] = array * np.float32(20 if layer == 9 else 1)
