"""Placed: one tensor of a GGUF, and which rows of which checkpoint tensors it is.

Converting moves rows: it permutes them (rotary pairs), interleaves or splits them (fused q, k and v), or lays tensors
after one another (experts). So one index says it all, it can be read backwards, and it applies to the rows of a LoRA's
B as it does to the weight's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from adaptool.errors import MismatchError

Order = NDArray[np.int64]
"""Row i of the result is row ``order[i]`` of the sources, their rows counted one after another."""


@dataclass(frozen=True, eq=False, slots=True)
class Placed:
    """A GGUF tensor of ``shape`` (outermost first, as safetensors), made of the checkpoint tensors ``sources``."""

    name: str
    shape: tuple[int, ...]
    sources: tuple[str, ...]
    order: Order | None = None
    """None: the sources' rows as they lie, one source after another."""
    transposed: bool = False
    """The single source is stored (in, out): GPT-2's Conv1D."""
    shift: float = 0.0
    """Added to every element, in float32: Gemma's norms are stored as what they differ from one by."""
    unread: int = 0
    """How many of the single source's first rows are left out because no model reads them."""

    @property
    def unchanged(self) -> bool:
        """Whether the bytes of the single source will do."""
        return len(self.sources) == 1 and self.order is None and not self.transposed and not self.shift

    def renamed(self, name: str) -> Placed:
        """The same rows under another name."""
        return replace(self, name=name)


@lru_cache(256)
def rotary_pairs(rows: int, heads: int) -> Order:
    """The rows of ``heads`` heads, from halves (transformers rotates element i with i + d/2) to neighbours (ggml).

    Source: rotary embeddings as in RoFormer (interleaved) and GPT-NeoX (halves).
    """
    if rows % (2 * heads):
        raise MismatchError(f"{rows} rows cannot be {heads} heads of rotary pairs")
    return np.arange(rows).reshape(heads, 2, rows // heads // 2).swapaxes(1, 2).reshape(-1)


@lru_cache(256)
def ungrouped(rows: int, groups: int, queries: int) -> Order:
    """The rows of fused heads, from groups of ``queries`` queries, a key and a value to all queries, keys and values.

    Source: Falcon's grouped heads; one query a group is GPT-NeoX and BLOOM.
    """
    if rows % (groups * (queries + 2)):
        raise MismatchError(f"{rows} rows cannot be {groups} groups of {queries} queries, a key and a value")
    heads = np.arange(rows).reshape(groups, queries + 2, -1)
    return np.concatenate([part.reshape(-1) for part in np.split(heads, (queries, queries + 1), axis=1)])


def inverse(order: Order) -> Order:
    """The order that undoes ``order``, which must be a permutation."""
    undone = np.empty_like(order)
    undone[order] = np.arange(len(order))
    return undone


Placing = Callable[[str, tuple[int, ...]], Sequence[Placed]]
"""From a checkpoint tensor's name and shape to what becomes of it."""
