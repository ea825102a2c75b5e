"""VAL001–VAL009 and VAL020–VAL029: the numbers themselves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from adaptool.rules.draft import Array, Draft, tensors
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject
from adaptool.rules.weights.untrained import MULTIPLIERS, and_more, trained
from adaptool.summary.contents import Saved

F16_LARGEST = 65504.0
F16_SMALLEST_NORMAL = 2.0**-14

VANISHING = 1e-20
"""No optimizer moves a parameter by so little: a single step is about the learning rate."""

SAME_BY_DESIGN = ("lily_", "psoft_", "tinylora_", "randlora_gamma", "unilora_scales_")
"""Parts that several layers of one adapter share, or that begin the same in all."""


def with_nan(array: Array) -> Array:
    """The array with one NaN in it."""
    broken = array.copy()
    broken.flat[3] = np.nan
    return broken


@rule("VAL001", "error", "NaN or Inf in the weights", needs=("tensors", "values"), breaks=tensors(lora_B=with_nan))
def not_finite(subject: Subject) -> Iterator[Problem]:
    """One NaN makes every output NaN, and a merge writes it into the base for good.

    Fix: take an earlier checkpoint; training diverged (a lower learning rate, bf16 instead of fp16).
    """
    counts = subject.statistics.not_finite
    if counts:
        first, total = next(iter(counts)), sum(counts.values())
        values = "1 value is" if total == 1 else f"{total} values are"
        yield Problem(f"{values} NaN or Inf, in {first}{and_more(counts)}", subject.weights_name, tensors=tuple(counts))


@rule("VAL002", "info", "values at the end of float16's range", needs=("tensors", "values"),
      breaks=lambda draft: _as_f16(draft, F16_LARGEST))  # fmt: skip
def saturated(subject: Subject) -> Iterator[Problem]:
    """65504 is the largest float16: a value that stands exactly there was cut off, by a cast that saturates.

    Fix: save in bfloat16 or float32, and look at why a weight grew so large.
    """
    figures, infos = subject.statistics.tensors, subject.store.infos
    keys = tuple(
        key for key, moments in figures.items() if infos[key].dtype.name == "F16" and moments.absmax == F16_LARGEST
    )  # fmt: skip
    if keys:
        yield Problem(f"{keys[0]}{and_more(keys)} reaches ±65504", subject.weights_name, tensors=keys)


@rule("VAL003", "warning", "values as good as zero", needs=("adapter", "values"),
      breaks=tensors(lora_B=lambda B: B * np.float32(1e-38)))  # fmt: skip
def vanishing(subject: Subject) -> Iterator[Problem]:
    """A tensor that is not zero, and whose largest value is next to nothing, was rescaled wrongly or is damaged: one
    optimizer step moves a parameter by about the learning rate. In float16 a tensor of nothing but subnormal numbers
    (below 6.1e-5) has lost most of its digits (info): its training was shorter than that type can hold.

    Fix: save the adapter again; cast it to bfloat16 or float32, not to float16.
    """
    figures = subject.statistics.tensors
    small = {saved.key.text: saved.info.dtype.name for saved in trained(subject) if figures[saved.key.text].absmax > 0}
    gone = tuple(key for key in small if figures[key].absmax < VANISHING)
    if gone:
        yield Problem(
            f"the largest value of {gone[0]}{and_more(gone)} is {figures[gone[0]].absmax:.2g}", subject.weights_name,
            tensors=gone,
        )  # fmt: skip
    coarse = tuple(key for key, kind in small.items() if kind == "F16" and figures[key].absmax < F16_SMALLEST_NORMAL)
    if coarse:
        yield Problem(
            f"all values of {coarse[0]}{and_more(coarse)} are subnormal float16 numbers, "
            f"{figures[coarse[0]].absmax:.2g} at most",
            subject.weights_name, tensors=coarse, severity="info",
        )  # fmt: skip


@rule("VAL020", "warning", "a matrix of one number", needs=("adapter", "values"),
      breaks=tensors(lora_A=lambda A: np.full_like(A, 0.02)))  # fmt: skip
def constant(subject: Subject) -> Iterator[Problem]:
    """Training leaves no matrix with the same number everywhere: this is a placeholder, or a fill of lost memory.

    Fix: save the adapter again.
    """
    figures = subject.statistics.tensors
    keys = tuple(
        saved.key.text for saved in trained(subject)
        if _is_matrix(saved) and figures[saved.key.text].constant not in (None, 0.0)
    )  # fmt: skip
    if keys:
        value = figures[keys[0]].constant
        yield Problem(f"{keys[0]}{and_more(keys)} is {value:.4g} everywhere", subject.weights_name, tensors=keys)


@rule("VAL021", "warning", "layers with the same weights", needs=("adapter", "values"),
      breaks=lambda draft: _copied(draft))  # fmt: skip
def twins(subject: Subject) -> Iterator[Problem]:
    """Two layers never learn the same numbers to the last bit: a script wrote one layer's factors under the names of
    others, or seeded every layer alike.

    Fix: look at the conversion that wrote the file, and whether the key it reads has the layer in it.
    """
    own = {saved.key.text: saved for saved in trained(subject) if _learns_its_own(saved)}
    copies: list[tuple[str, ...]] = []
    for group in subject.statistics.twins:
        alike: dict[tuple[str, ...], list[Saved]] = {}
        for saved in (own[key] for key in group if key in own):
            alike.setdefault((saved.place.stack, saved.place.name, saved.key.part), []).append(saved)
        copies += [
            tuple(saved.key.text for saved in same)
            for same in alike.values()
            if len({saved.place.layer for saved in same}) > 1
        ]
    if copies:
        yield Problem(
            f"{copies[0][0]} has the same bytes in {len(copies[0])} layers"
            + (f", and so have {len(copies) - 1} more tensors" if len(copies) > 1 else ""),
            subject.weights_name, tensors=tuple(key for same in copies for key in same),
        )  # fmt: skip


def _is_matrix(saved: Saved) -> bool:
    return (
        sum(length > 1 for length in saved.info.shape) > 1
        and not saved.key.part.startswith(SAME_BY_DESIGN)
        and not MULTIPLIERS.fullmatch(saved.key.part)
    )


def _learns_its_own(saved: Saved) -> bool:
    return saved.role == "trained" and saved.place.layer is not None and _is_matrix(saved)


def _as_f16(draft: Draft, largest: float) -> None:
    """All factors as float16, one value of each replaced."""
    for key, array in draft.tensors.items():
        changed = array.astype(np.float16)
        changed.flat[0] = largest
        draft.tensors[key], draft.dtypes[key] = changed.view(np.uint16), "F16"


def _copied(draft: Draft) -> None:
    for key in draft.tensors:
        draft.tensors[key] = draft.tensors[key.replace(".layers.1.", ".layers.0.")]
