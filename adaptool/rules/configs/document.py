"""A JSON document as its reader finds it: values with their places, and keys that stand twice."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from adaptool.tensors.jsons import SHOWN

if TYPE_CHECKING:
    from adaptool.rules.subject import Subject

DEEPEST = 32
"""Levels: PEFT's own configs have three."""

MOST_PLACES = 100_000
"""Values of a config that are looked at: one layer of one module has a few, a mask's numbers are not counted."""

PLAIN = 2**53
"""Numbers below are read alike by every parser."""


@dataclass(frozen=True, slots=True)
class Place:
    """One value of a document; ``path`` is "" for the whole, "eva_config.rho" or "target_modules.3" below."""

    path: str
    key: str | None
    """The key it stands under; None in a list and for the whole."""
    value: Any
    depth: int


@dataclass(frozen=True, slots=True)
class Repeated:
    """A key that stands more than once in one object, and its values in the order of the file."""

    key: str
    values: tuple[Any, ...]


def config_places(subject: Subject) -> Sequence[Place]:
    """Every value of the config, collected once; none where it cannot be read."""
    config = subject.config_read.value
    read = () if config is None else islice(places(dict(config.fields)), MOST_PLACES)
    return subject.once("config_places", lambda: tuple(read))


def places(value: Any, path: str = "", key: str | None = None, depth: int = 0) -> Iterator[Place]:
    """Every value, the outer ones first; nothing below DEEPEST, no plain number in a list (a mask has thousands)."""
    yield Place(path, key, value, depth)
    if depth > DEEPEST:
        return
    if isinstance(value, dict):
        for name, inner in value.items():
            short = name[:SHOWN]
            yield from places(inner, f"{path}.{short}" if path else short, name, depth + 1)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            if not (isinstance(inner, int | float) and abs(inner) < PLAIN):
                yield from places(inner, f"{path}.{number}", None, depth + 1)


def repeated_keys(data: bytes) -> tuple[Repeated, ...]:
    """The keys that stand twice in one object, which the usual parsers pass over; none where it is no JSON."""
    found: list[Repeated] = []

    def gather(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        read = dict(pairs)
        if len(read) != len(pairs):
            values: dict[str, list[Any]] = {}
            for key, value in pairs:
                values.setdefault(key, []).append(value)
            found.extend(Repeated(key, tuple(given)) for key, given in values.items() if len(given) > 1)
        return read

    with contextlib.suppress(ValueError, RecursionError):
        json.loads(data.decode("utf-8", "replace"), object_pairs_hook=gather)
    return tuple(found)
