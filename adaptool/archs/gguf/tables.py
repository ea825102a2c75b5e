"""Every architecture that can be written as a GGUF."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from adaptool.archs.gguf import (
    bert,
    cohere,
    dense,
    falcon,
    gemma,
    gpt,
    granite,
    llama,
    olmo,
    phi,
    qwen,
    stablelm,
    starcoder,
)
from adaptool.archs.gguf.hparams import Hparams
from adaptool.archs.gguf.pooling import read_pooling
from adaptool.archs.gguf.spec import ArchSpec
from adaptool.errors import FormatError, UnsupportedError
from adaptool.tensors.ggml.values import Value, ValueType

SPECS: tuple[ArchSpec, ...] = (
    *llama.TABLES,
    *qwen.TABLES,
    *granite.TABLES,
    *olmo.TABLES,
    *starcoder.TABLES,
    *stablelm.TABLES,
    *cohere.TABLES,
    *dense.TABLES,
    *gemma.TABLES,
    *phi.TABLES,
    *gpt.TABLES,
    *falcon.TABLES,
    *bert.TABLES,
)

BY_ARCHITECTURE: Mapping[str, ArchSpec] = {name: spec for spec in SPECS for name in spec.architectures}


def spec_for(config: Mapping[str, Any] | None, where: str) -> ArchSpec:
    """The table for a config.json; UnsupportedError names the architecture and those that are supported."""
    hparams = Hparams(config or {}, {})
    if spec := BY_ARCHITECTURE.get(hparams.architecture):
        return spec
    known = ", ".join(sorted(BY_ARCHITECTURE))
    if config is not None and not hparams.architecture:
        raise UnsupportedError(
            f"{where}: config.json names no architecture, by which a model is converted to GGUF",
            hint=f"it belongs under architectures, and those supported are {known}",
        )
    named = hparams.architecture or "a model without config.json"
    raise UnsupportedError(f"{where}: {named} cannot be converted to GGUF yet", hint=f"supported are {known}")


def hparams_of(spec: ArchSpec, config: Mapping[str, Any], folder: Path | None = None) -> Hparams:
    """A config, and the files beside it in ``folder``, as the table reads them.

    Raises UnsupportedError where llama.cpp would run another model than they describe.
    """
    with understood("how its sentences are pooled"):
        pooling = read_pooling(folder) if folder else None
    hparams = Hparams(config, spec.defaults, pooling)
    if refused := [words for name, words in _contradictions(spec, hparams) if name not in spec.tolerated]:
        raise UnsupportedError(refused[0])
    with understood("what llama.cpp would run"):
        reason = spec.limits(hparams)
    if reason:
        raise UnsupportedError(f"config.json: {reason}")
    return hparams


def cautions(spec: ArchSpec, hparams: Hparams) -> list[str]:
    """Where llama.cpp computes a little otherwise than the config says: what the user is told."""
    return [f"{words}: the GGUF's answers will differ" for _, words in _contradictions(spec, hparams)]


def _contradictions(spec: ArchSpec, hparams: Hparams) -> Iterator[tuple[str, str]]:
    for name, wanted in spec.config.items():
        given = hparams.find(name, default=None)
        if given is not None and _plain_name(given) != _plain_name(wanted):
            yield name, f"config.json: {name} is {given!r}, and llama.cpp's {spec.name} knows {wanted!r} only"


ACTIVATIONS = {"swish": "silu", "gelu_new": "gelu_pytorch_tanh", "gelu_fast": "gelu_pytorch_tanh"}
"""Other names of an activation function."""


def _plain_name(setting: Any) -> Any:
    return ACTIVATIONS.get(setting, setting) if isinstance(setting, str) else setting


def spec_named(
    arch: str, keys: Container[str], tensors: Container[str], vocabulary: str | None = None
) -> ArchSpec | None:
    """The table of a GGUF whose ``general.architecture`` is ``arch``, by its metadata's and its tensors' names.

    ``vocabulary`` is its ``tokenizer.ggml.model``.
    """
    named = [spec for spec in SPECS if spec.name == arch]
    marked = [spec for spec in named if spec.marked_by and f"{arch}.{spec.marked_by}" in keys]
    lacking = [spec for spec in named if spec.lacks and spec.lacks not in tensors]
    spoken = [spec for spec in named if spec.vocabulary and spec.vocabulary == vocabulary]
    return next(iter((*marked, *lacking, *spoken, *named)), None)


GLOBAL = ("general.", "tokenizer.")
"""How keys begin that no architecture's name stands before."""


def architecture_keys(spec: ArchSpec, hparams: Hparams) -> dict[str, Value]:
    """The metadata an architecture's runtime reads: sizes, norms, rotary settings, experts."""
    result = {}
    for key in spec.keys:
        with understood(key.config or key.name):
            value = key.of(hparams)
            if value is not None:
                name = key.name if key.name.startswith(GLOBAL) else f"{spec.name}.{key.name}"
                result[name] = _storable(key.make(value))
    return result


@contextmanager
def understood(what: str) -> Iterator[None]:
    """A setting of a kind or size that no config class writes: a FormatError that names ``what`` it decides."""
    try:
        with np.errstate(all="ignore"):
            yield
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, MemoryError) as error:
        raise FormatError(
            f"config.json: {what} cannot be made out of its settings",
            hint="compare it with the original model's config.json",
        ) from error


def _storable(value: Value) -> Value:
    """``value``, or a ValueError where its number does not fit its type."""
    kind = value.kind if value.element is None else value.element
    numbers = np.array(value.data if kind in (ValueType.UINT32, ValueType.FLOAT32) else [], np.float64)
    most = np.finfo(np.float32).max if kind is ValueType.FLOAT32 else 2.0**32 - 1
    if not (np.abs(numbers) <= most).all() or (kind is ValueType.UINT32 and (numbers < 0).any()):
        raise ValueError(f"{value.data} does not fit {kind.name}")
    return value
