"""The wrong places: how converters are known to lay a tensor's rows, other than where they belong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from adaptool.archs.gguf.hparams import Hparams
from adaptool.archs.gguf.placed import Order, Placed, inverse, rotary_pairs
from adaptool.archs.gguf.spec import ArchSpec, Shape
from adaptool.errors import MismatchError

ROTATED = ("attn_q.", "attn_k.")
"""Tensors whose rows some architectures reorder for llama.cpp's rotary embedding."""

ORDER, TRANSPOSED, SHIFTED, EXPERTS = "row order", "transposed", "norm shift", "expert order"


@dataclass(frozen=True, eq=False, slots=True)
class Misplaced:
    """One way a tensor may have been laid wrongly."""

    kind: str
    words: str
    """What its tensors are: "in the checkpoint's row order …"."""
    placed: Placed


def misplacings(placed: Placed, spec: ArchSpec, hparams: Hparams) -> Iterator[Misplaced]:
    """The ways to try for one tensor, the likeliest first."""
    rows = _rows(placed.shape)
    if placed.order is not None:
        yield from _of_order(placed, placed.order)
    if any(part in placed.name for part in ROTATED):
        for heads in dict.fromkeys((hparams.heads, hparams.kv_heads)):
            order = _paired(rows, heads)
            if order is not None and (placed.order is None or not np.array_equal(order, placed.order)):
                words = f"reordered for llama.cpp's rotary embedding as {heads} heads"
                instead = f", and a {spec.name} model's are not" if placed.order is None else ", which they are not"
                yield Misplaced(ORDER, words + instead, replace(placed, order=order))
    if len(placed.sources) > 1:
        yield from _of_experts(placed)
    if len(placed.shape) == 2 and placed.shape[0] == placed.shape[1] and placed.order is None:
        turned = replace(placed, transposed=not placed.transposed)
        yield Misplaced(TRANSPOSED, "transposed", turned)
    for shift in (0.0, 1.0, -1.0, 2.0):
        if len(placed.shape) == 1 and shift != placed.shift:
            words = f"off by {shift - placed.shift:+g}"
            if not shift:
                words += f": the {placed.shift:g} that a GGUF of {spec.name} adds to them is missing"
            yield Misplaced(SHIFTED, words, replace(placed, shift=shift))


def _of_order(placed: Placed, order: Order) -> Iterator[Misplaced]:
    rotary = any(part in placed.name for part in ROTATED)
    wanted = "llama.cpp's rotary embedding wants them reordered" if rotary else "a GGUF has them reordered"
    yield Misplaced(ORDER, f"in the checkpoint's row order: {wanted}", replace(placed, order=None))
    if len(order) == len(np.unique(order)) == int(order.max(initial=-1)) + 1:
        yield Misplaced(ORDER, "reordered twice", replace(placed, order=order[order]))
        yield Misplaced(ORDER, "reordered the wrong way round", replace(placed, order=inverse(order)))


def _of_experts(placed: Placed) -> Iterator[Misplaced]:
    by_name = tuple(sorted(placed.sources))
    for words, sources in (
        ("stacked in alphabetical order: expert 10 before expert 2", by_name),
        ("stacked backwards", placed.sources[::-1]),
    ):
        if sources != placed.sources:
            yield Misplaced(EXPERTS, words, replace(placed, sources=sources))


def _paired(rows: int, heads: int) -> Order | None:
    try:
        return rotary_pairs(rows, heads)
    except MismatchError:
        return None


def _rows(shape: Shape) -> int:
    return shape[0]
