"""VAL001–VAL099: the numbers themselves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from adaptool.rules.draft import Array, tensors
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject


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
        more = f" and {len(counts) - 1} more" if len(counts) > 1 else ""
        yield Problem(f"{total} values are NaN or Inf, in {first}{more}", subject.weights_name, tensors=tuple(counts))
