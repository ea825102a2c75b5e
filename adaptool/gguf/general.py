"""The ``general.*`` keys: what a model is called, how large it is, whose it is, what it was made of.

The card, config.json and generation_config.json say so; ``gguf.Metadata`` reads them as the converters of llama.cpp do.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adaptool import __version__
from adaptool.tensors.ggml.codec import encoded_value
from adaptool.tensors.ggml.values import Value, ValueType, f32, text, u32
from adaptool.tensors.store import TensorInfo

VERSION_KEY = "adaptool.version"
"""What marks a GGUF as written by adaptool."""


@dataclass(frozen=True, slots=True)
class Ingredient:
    """An adapter that was merged: its name, its weight and its content digest."""

    name: str
    weight: float
    digest: str


@dataclass(frozen=True, slots=True)
class Lineage:
    """What a GGUF was made of, as its ``adaptool.*`` keys say."""

    base: str | None = None
    base_digest: str | None = None
    """Of the base's header: names, types and shapes."""
    adapters: Sequence[Ingredient] = ()

    @property
    def keys(self) -> dict[str, Value]:
        """The keys, in order."""
        keys = {VERSION_KEY: text(__version__)}
        if self.base is not None:
            keys["adaptool.base.name"] = text(self.base)
        if self.base_digest is not None:
            keys["adaptool.base.header_digest"] = text(self.base_digest)
        if self.adapters:
            keys["adaptool.adapter.count"] = u32(len(self.adapters))
        for number, adapter in enumerate(self.adapters):
            keys[f"adaptool.adapter.{number}.name"] = text(adapter.name)
            keys[f"adaptool.adapter.{number}.weight"] = f32(adapter.weight)
            keys[f"adaptool.adapter.{number}.digest"] = text(adapter.digest)
        return keys


def general_keys(arch: str, folder: Path, infos: Iterable[TensorInfo], *, kind: str = "model") -> dict[str, Value]:
    """``general.architecture`` and what a model folder's files tell, failing all the folder's name.

    ``infos`` are the GGUF's tensors, counted for the size label. A card that cannot be parsed counts for nothing.
    """
    import gguf

    total, label = _sizes(list(infos))
    with _quiet():
        try:
            metadata = gguf.Metadata.load(None, folder, None, total)
        except Exception:  # a card or config.json with values of types nobody expects
            metadata = gguf.Metadata.apply_metadata_heuristic(gguf.Metadata(), None, None, folder, total)
        metadata.name = metadata.name or folder.name
        metadata.size_label = metadata.size_label or label
        writer = gguf.GGUFWriter(None, arch)
        writer.add_type(kind)
        metadata.set_gguf_meta_model(writer)
    told = {name: _value(given) for name, given in writer.kv_data[0].items()}
    return {name: value for name, value in told.items() if _fits(value)}


def _value(given: Any) -> Value:
    kind = ValueType(int(given.type))
    if kind is not ValueType.ARRAY:
        return Value(kind, given.value)
    element = given.sub_type if given.sub_type is not None else ValueType.STRING
    return Value(kind, list(given.value), ValueType(int(element)))


def _fits(value: Value) -> bool:
    """Whether a card's value is of its key's type: whatever else somebody wrote there counts for nothing."""
    try:
        with np.errstate(over="raise"):
            encoded_value(value)
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        return False
    return True


def _sizes(infos: Sequence[TensorInfo]) -> tuple[int, str | None]:
    """All parameters, and the label readers know: "1.1B", or "8x7B" for a mixture of experts."""
    import gguf

    total = shared = one_expert = 0
    counts: list[int] = []
    for info in infos:
        size = math.prod(info.shape)
        total += size
        if "_exps." in info.name and len(info.shape) > 2:
            counts.append(info.shape[-3])
            one_expert += size // info.shape[-3]
        else:
            shared += size
    experts = sum(counts) // len(counts) if counts else 0
    return total, gguf.size_label(total, shared, one_expert, experts) if total else None


@contextmanager
def _quiet() -> Any:
    """The gguf package logs what it could not parse; the caller has its own words."""
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(previous)
