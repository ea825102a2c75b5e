"""Origins: the tables read backwards, from a checkpoint's tensor to the rows of a GGUF it is made of.

``place`` says which rows of which checkpoint tensors each GGUF tensor is. Here that is turned round, so that rows of a
checkpoint tensor can be read from the GGUF a few at a time.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adaptool.archs.gguf.placed import Order, Placed, inverse
from adaptool.archs.gguf.spec import Shape
from adaptool.errors import MismatchError


@dataclass(frozen=True, eq=False, slots=True)
class Origin:
    """A checkpoint tensor of ``shape``, as rows of the GGUF's ``tensors`` counted one after another.

    Of vectors it is the elements that are counted.
    """

    shape: Shape
    tensors: tuple[str, ...]
    start: int = 0
    """Its first row among theirs, where there is no order."""
    order: Order | None = None
    """Its row i is their row ``order[i]``."""
    transposed: bool = False
    """Its rows are the single tensor's columns."""
    shift: float = 0.0
    """Taken from every element."""


def origins_of(placed: Sequence[Placed], shapes: Mapping[str, Shape]) -> dict[str, Origin]:
    """Where each checkpoint tensor that ``placed`` speaks of lies, in the order of ``shapes``.

    Raises MismatchError where some row of one is in no GGUF tensor, or in two.
    """
    users: dict[str, list[Placed]] = defaultdict(list)
    for one in placed:
        for source in one.sources:
            users[source].append(one)
    return {
        name: _alone(name, users[name][0], shapes) if len(users[name]) == 1 else _spread(name, users[name], shapes)
        for name in shapes
        if name in users
    }


def _alone(name: str, placed: Placed, shapes: Mapping[str, Shape]) -> Origin:
    """A tensor that lies whole in one GGUF tensor."""
    start, total = _span(name, placed, shapes)
    if placed.order is None:
        return Origin(shapes[name], (placed.name,), start, None, placed.transposed, placed.shift)
    order = _undone(placed, total)[start : start + _rows(shapes[name], placed)]
    order[: placed.unread] = 0  # whatever they were
    order = _complete(name, order)
    return Origin(shapes[name], (placed.name,), 0, order, placed.transposed, placed.shift)


def _spread(name: str, users: Sequence[Placed], shapes: Mapping[str, Shape]) -> Origin:
    """A tensor whose rows are shared out among several GGUF tensors: fused queries, keys and values, fused experts."""
    where = np.full(_rows(shapes[name], users[0]), -1, np.int64)
    before = 0
    for placed in users:
        if placed.transposed or placed.shift:
            raise MismatchError(f"{name}: in several tensors of a GGUF and changed on the way, which cannot be undone")
        start, total = _span(name, placed, shapes)
        found = _undone(placed, total)[start : start + len(where)]
        if (where[found >= 0] >= 0).any():
            raise MismatchError(f"{name}: some of its rows are in two tensors of a GGUF")
        where[found >= 0] = found[found >= 0] + before
        before += _rows(placed.shape, placed)
    return Origin(shapes[name], tuple(placed.name for placed in users), 0, _complete(name, where))


def _undone(placed: Placed, total: int) -> Order:
    """For each of the sources' ``total`` rows its row in the GGUF tensor, −1 where it is not there."""
    if placed.order is None:
        return np.arange(total)
    if len(placed.order) == total:
        return inverse(placed.order)
    where = np.full(total, -1, np.int64)
    where[placed.order] = np.arange(len(placed.order))
    return where


def _complete(name: str, order: Order) -> Order:
    if (order < 0).any():
        raise MismatchError(f"{name}: row {int(np.flatnonzero(order < 0)[0])} is in no tensor of a GGUF")
    return order


def _span(name: str, placed: Placed, shapes: Mapping[str, Shape]) -> tuple[int, int]:
    """How many rows of the sources come before this one, and how many they are together."""
    rows = [_rows(shapes[source], placed) for source in placed.sources]
    return sum(rows[: placed.sources.index(name)]), sum(rows)


def _rows(shape: Shape, placed: Placed) -> int:
    return math.prod(shape if len(placed.shape) == 1 else shape[:-1])
