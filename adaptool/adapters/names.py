"""The grammar of saved keys: what PEFT's state dict calls a tensor, taken apart.

    base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight
    └── prefix ────┘ └── module ────────────────────┘ └─ part ─┘

The adapter's own name is not in a saved key. A key whose tail is no adapter part is a full tensor
that replaces the base's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

PREFIX = "base_model.model."
SHARED_PREFIX = "base_model."
"""Buffers shared by all layers (VeRA's projections, …) hang off the tuner itself."""

FULL = "full"
"""The part of a tensor that replaces the base's whole."""


MOST_SEGMENTS = 100
"""Of a name that is looked up by its endings: a dozen is many."""
MOST_LETTERS = 500
"""Of its endings: no entry in a list of targets is as long."""


@dataclass(frozen=True, slots=True)
class Key:
    """A saved key: the runtime module it belongs to, and which part of the adapter it is."""

    text: str
    module: str
    part: str


def parse(text: str, part: re.Pattern[str]) -> Key:
    """Take a saved key apart, given the pattern of the parts its PEFT type saves (``lora_A\\.weight|…``).

    A full tensor keeps its parameter name in ``module`` ("classifier.weight"). A key without PEFT's
    prefix has the part "": PEFT itself would ignore it.
    """
    if not text.startswith(PREFIX):
        shared = text.startswith(SHARED_PREFIX)
        return Key(text, "", text.removeprefix(SHARED_PREFIX)) if shared else Key(text, text, "")
    rest = text.removeprefix(PREFIX)
    match = _grammar(part).fullmatch(rest)
    return Key(text, match.group(1), match.group(2)) if match else Key(text, rest, FULL)


@cache
def _grammar(part: re.Pattern[str]) -> re.Pattern[str]:
    """A module and one of its parts."""
    return re.compile(rf"(.+?)\.({part.pattern})")


def layer_of(name: str) -> int | None:
    """The layer a module belongs to: its first numbered segment, as PEFT counts ``layers_to_transform``."""
    match = re.search(r"(?:^|\.)(\d{1,9})(?:\.|$)", name)
    return int(match.group(1)) if match else None


def endings_of(name: str) -> set[str]:
    """The whole name, and what is left of it after each of its last dots: what an entry in a list of targets may be."""
    tail = name[-MOST_LETTERS:]
    first, *others = tail.rsplit(".", MOST_SEGMENTS)
    endings, at = {name}, len(first) + 1
    for segment in others:
        endings.add(tail[at:])
        at += len(segment) + 1
    return endings


def kept_by(name: str, endings: Mapping[int, frozenset[str]]) -> set[str]:
    """The entries, by length, that a module or one it lies in ends with, as plain strings."""
    stops = [*(at for at, letter in enumerate(name) if letter == "."), len(name)]
    found = ((n, name[stop - n : stop]) for stop in stops for n in endings if n <= stop)
    return {ending for n, ending in found if ending in endings[n]}


def projection_of(name: str) -> str:
    """The last segment of a module's name: q_proj, c_attn, dense, …"""
    return name.rpartition(".")[2]
