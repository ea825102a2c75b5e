"""ArchSpec: what llama.cpp expects of one architecture, as a table.

A table says which config classes it serves, which metadata keys hold which settings, what becomes of the checkpoint's
tensors, and how its tokenizer is stored. Names that no rule mentions go through ``gguf.TensorNameMap``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptool.archs.gguf.hparams import Hparams
from adaptool.archs.gguf.placed import Placed
from adaptool.tensors.ggml.values import Value

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Key:
    """One metadata key: ``{arch}.name`` in the file, or ``name`` itself if that is "general.…" or "tokenizer.…"."""

    name: str
    make: Callable[[Any], Value]
    of: Callable[[Hparams], Any]
    """The value, or None to leave the key out."""
    config: str | None = None
    """The config.json setting it is read back into, for going from GGUF to a model folder."""


def setting(name: str, make: Callable[[Any], Value], *config: str, default: Any = None) -> Key:
    """A key that holds a config.json setting: the first of ``config`` that is set, else ``default`` (None: no key)."""
    return Key(name, make, lambda hp: hp.find(*config, default=default), config[0])


def derived(name: str, make: Callable[[Any], Value], of: Callable[[Hparams], Any], config: str | None = None) -> Key:
    """A key that is computed from several settings."""
    return Key(name, make, of, config)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A checkpoint tensor as a rule sees it: ``name`` is normalised, ``source`` is what the checkpoint calls it."""

    name: str
    source: str
    shape: Shape


Rule = Callable[[Tensor, Hparams], Sequence[Placed]]
"""What becomes of a tensor. The names of what it returns are checkpoint-style, and mapped afterwards."""


@dataclass(frozen=True)
class ArchSpec:
    """One architecture of llama.cpp."""

    name: str
    """As ``general.architecture`` has it: "llama"."""
    architectures: tuple[str, ...]
    """Classes of config.json's ``architectures`` that are converted by it."""
    keys: tuple[Key, ...]
    tokenizer: str
    """Which of the tokenizer styles it is stored in."""
    rules: Mapping[str, Rule] = field(default_factory=dict)
    """Regex that a normalised name must match to its end → rule; the first that matches."""
    renames: Mapping[str, str] = field(default_factory=dict)
    """Regex → replacement, applied to checkpoint names before all else."""
    dropped: tuple[str, ...] = ()
    """Regexes of tensors llama.cpp has no use for."""
    extras: Callable[[Hparams], Mapping[str, NDArray[np.float32]]] = lambda hp: {}
    """Tensors computed from the config alone."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What the config class assumes of missing keys, where that differs from llama.cpp's own assumption."""
    model_type: str = ""
    """transformers' name, for the config.json written when going back; empty: the same as ``name``."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Settings of every model of it that no metadata key holds: written when going back, and refused if they differ."""
    tolerated: tuple[str, ...] = ()
    """Those of ``config`` that may differ all the same: the file answers a little otherwise, and that is said."""
    limits: Callable[[Hparams], str | None] = lambda hp: None
    """Why llama.cpp cannot run a model of these settings, if it cannot."""
    marked_by: str = ""
    """The metadata key whose presence tells it from another table of the same ``name``: "expert_count"."""

    lacks: str = ""
    """The tensor whose absence does so: "token_types.weight"."""
    vocabulary: str = ""
    """The ``tokenizer.ggml.model`` that does so: "t5"."""

    @cached_property
    def compiled_rules(self) -> tuple[tuple[re.Pattern[str], Rule], ...]:
        """The rules, ready to match."""
        return tuple((re.compile(rf"(?:.*\.)?(?:{pattern})$"), rule) for pattern, rule in self.rules.items())

    @cached_property
    def compiled_dropped(self) -> re.Pattern[str]:
        """One pattern of everything that is left out."""
        return re.compile("|".join((*self.dropped, *DROPPED)))

    def normalised(self, name: str) -> str:
        """A checkpoint name as the rules and the name map know it."""
        for pattern, replacement in self.renames.items():
            name = re.sub(pattern, replacement, name)
        return name


DROPPED = (r"\.attention\.masked_bias$", r"\.attention\.bias$", r"\.rotary_emb\.inv_freq$")
"""Buffers that old checkpoints saved with their weights."""
