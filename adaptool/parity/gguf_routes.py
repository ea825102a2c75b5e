"""How a GGUF came about: whether llama-quantize's blocks are in it, and by way of which type, learnt from a few rows.

The usual pipelines write a float16 or bfloat16 GGUF and quantise that, so a float32 model's blocks depend on which.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from adaptool.gguf.imatrix import Imatrix
from adaptool.parity.gguf_judging import SLOW, again, can_quantise
from adaptool.parity.gguf_model import GgufModel
from adaptool.tensors.dtypes import BF16, F16, F32
from adaptool.tensors.gguf import GgufFile, SplitGguf
from adaptool.tensors.store import Store

IMATRIX_KEY = "quantize.imatrix.file"

PROBES, PROBE_ROWS = 12, 4
"""Tensors that are looked at, and rows of each."""

ENOUGH = 0.5
"""Of the tensors looked at: where these are bit-equal, the rest is another tensor, and not another quantiser."""

WORDS = {F16: "float16", BF16: "bfloat16", F32: "float32"}


@dataclass(frozen=True)
class Route:
    """What a file is held against, and how."""

    model: GgufModel
    whole: bool
    """Whether the blocks of quantised types can be compared byte by byte."""
    notes: tuple[str, ...] = ()


def find_route(
    model: GgufModel, actual: GgufFile | SplitGguf, names: Mapping[str, str], imatrix: Imatrix | None
) -> Route:
    """``names`` are the tensors to be compared, each with the model's name for it."""
    if IMATRIX_KEY in actual.keys and imatrix is None:
        return Route(
            model,
            whole=False,
            notes=("made with an imatrix, without which blocks cannot be compared byte by byte: --imatrix gives it",),
        )
    chosen = _chosen(model, actual, names, imatrix)
    for kind in dict.fromkeys((model.float_type, F16, BF16, F32)):
        other = model.by_way_of(kind)
        equal = [
            sum(_equal(actual, store, name) for name in chosen) for store in _stores(other, actual, names, imatrix)
        ]
        if max(equal) >= ENOUGH * len(chosen):
            told = (f"converted by way of {WORDS[kind]}",) if kind != model.float_type else ()
            return Route(other, whole=True, notes=told)
    note = "its blocks are not llama-quantize's without an imatrix: losses are compared, not bytes"
    return Route(model, whole=False, notes=(note,))


def _chosen(model: GgufModel, actual: Store, names: Mapping[str, str], imatrix: Imatrix | None) -> dict[str, str]:
    """Quantised tensors to look at, spread over the file: of fast types and not touched by an adapter, if there are."""
    able = [name for name in names if actual[name].dtype.blocked and can_quantise(actual[name].dtype, imatrix)]
    fast = [name for name in able if actual[name].dtype.name not in SLOW] or able[:1]
    plain = [name for name in fast if names[name] not in model.touched] or fast
    places = np.linspace(0, len(plain) - 1, PROBES).astype(int).tolist() if plain else []
    return {plain[place]: names[plain[place]] for place in places}


def _stores(model: GgufModel, actual: Store, names: Mapping[str, str], imatrix: Imatrix | None) -> Iterator[Store]:
    """The model's blocks; and its base's, for a file that no adapter was merged into."""
    yield again(model.converted, actual, names, imatrix)
    if model.unmerged is not None:
        known = {name: own for name, own in names.items() if own in model.unmerged}
        yield again(model.unmerged, actual, known, imatrix)


def _equal(actual: Store, ours: Store, name: str) -> bool:
    rows = min(PROBE_ROWS if actual[name].dtype.name not in SLOW else 1, actual[name].rows)
    return name in ours and np.array_equal(actual.read(name, 0, rows), ours.read(name, 0, rows))
